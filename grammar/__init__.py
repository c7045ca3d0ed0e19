"""rldsl.grammar: see the module list in docs/architecture.md."""

if not __name__.startswith("rldsl."):
    raise ImportError("import rldsl.grammar, not grammar: the folder is a part of the package rldsl")
