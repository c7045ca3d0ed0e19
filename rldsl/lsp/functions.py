"""Functions that an algorithm may call: where they stand and what their docstrings say. Nothing of them runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from rldsl.compiler.signature import Signature, functions_in, library_names, library_signature, user_signature
from rldsl.diagnostics import Diagnostics
from rldsl.lsp.text import Place, Text


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function with its place. `signature` is None where it cannot be read; `shipped` are the library's."""

    name: str
    signature: Signature | None
    summary: str
    place: Place
    shipped: bool


@cache
def library() -> Mapping[str, Function]:
    """The shipped functions by name."""
    signatures = {name: library_signature(name) for name in library_names()}
    files = {s.span.file for s in signatures.values() if s and s.span}
    found = {name: f for file in sorted(files) for name, f in _read(Path(file), file, True).items()}
    return {name: found[name] for name in signatures}


def in_file(path: Path, shown: str) -> Mapping[str, Function]:
    """The functions of a user's file, read again when it has changed; none where it cannot be read."""
    try:
        return _in_file(path, shown, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return {}


@lru_cache(maxsize=64)
def _in_file(path: Path, shown: str, modified: int) -> Mapping[str, Function]:
    del modified  # part of the key
    return _read(path, shown, False)


def _read(path: Path, shown: str, shipped: bool) -> dict[str, Function]:
    text = Text(path, path.read_text(encoding="utf-8"))
    return {f.name: _function(f, text, shown, shipped) for f in functions_in(ast.parse(text.text))}


def _function(node: ast.FunctionDef, text: Text, shown: str, shipped: bool) -> Function:
    if shipped:
        signature = library_signature(node.name)
    else:
        signature = user_signature(node, path=text.path, file=shown, sha256="", found=Diagnostics())
    start = text.offset(node.lineno, 1)
    start = max(text.text.find(node.name, text.text.find("def", start)), start)
    summary = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
    place = Place(text, start, start + len(node.name))
    return Function(name=node.name, signature=signature, summary=summary, place=place, shipped=shipped)
