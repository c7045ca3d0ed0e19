"""Which functions Python lets run on the main thread only: found by `ast`, no code is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rldsl.compiler.neighbours import neighbours
from rldsl.compiler.signature import Signature, library_function, parse_user_file

_SIGNALS = frozenset({"signal", "math_verify"})  # modules that set alarms


def wants_main_thread(signature: Signature, source_dir: Path) -> bool:
    """Whether the function, or a file of the user's that it may run, uses signals or asks which thread it is on.

    A library that does so behind an import of another name is not seen.
    """
    return any(_asks(tree) for tree in _trees(signature, source_dir))


def _trees(signature: Signature, source_dir: Path) -> Iterator[ast.AST]:
    if signature.file is None:
        yield library_function(signature.name)
        return
    path = source_dir / signature.file
    for name in (signature.file, *neighbours(path, signature.file)):
        yield parse_user_file(source_dir / name, name, None)[0]


@lru_cache(maxsize=256)
def _asks(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(a.name.partition(".")[0] in _SIGNALS for a in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] in _SIGNALS:
            return True
        if isinstance(node, ast.Attribute | ast.Name) and "main_thread" in (
            vars(node).get("attr"),
            vars(node).get("id"),
        ):
            return True
    return False
