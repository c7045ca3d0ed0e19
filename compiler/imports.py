"""`import "base.rl"`: the declarations of another file, before those of this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

from rldsl.compiler.frozen import Frozen
from rldsl.compiler.ir import Graph, Import, Use
from rldsl.compiler.parse import parse
from rldsl.diagnostics import DiagnosticError, Diagnostics, did_you_mean, fail


def with_imports(graph: Graph, path: Path, found: Diagnostics | None = None) -> Graph:
    """`graph`, read from `path`, with everything that it imports, each file once however often it is imported.

    What a file declares under a name that it imports replaces that (see `check_unique`). Files of functions keep their
    place; data files are relative to the file that is compiled. RL0101, RL0103 for a file that cannot be read, RL0106
    for files that import each other; what such a file may declare is unknown, so all names that are used are poisoned.
    """
    if not graph.imports:
        return graph
    read = [*_imported(graph, path, (path.resolve(),), set(), path.parent, found), replace(graph, imports=())]
    parts = [part for part in read if part is not None]
    unknown = frozenset(n for g in parts for n in _names(g)) if len(parts) < len(read) else frozenset()
    return replace(
        graph,
        params=tuple(p for g in parts for p in g.params),
        models=tuple(m for g in parts for m in g.models),
        inputs=tuple(i for g in parts for i in g.inputs),
        uses=tuple(dict.fromkeys(u for g in parts for u in g.uses)),
        imports=(),
        nodes=tuple(n for g in parts for n in g.nodes),
        blocks=tuple(b for g in parts for b in g.blocks),
        deploy=graph.deploy or next((g.deploy for g in reversed(parts) if g.deploy), None),
        poisoned=unknown.union(*(g.poisoned for g in parts)),
    )


def imported_files(graph: Graph, path: Path) -> tuple[Path, ...]:
    """Every file that `graph` imports, directly or not, for hashing and for editors."""
    files: list[Path] = []
    for one in graph.imports:
        other = path.parent / one.path
        if other not in files and other.is_file():
            files += [other, *imported_files(parse(other.read_text(encoding="utf-8"), str(other)), other)]
    return tuple(dict.fromkeys(files))


def _imported(
    graph: Graph, path: Path, chain: tuple[Path, ...], seen: set[Path], root: Path, found: Diagnostics | None
) -> Iterator[Graph | None]:
    """The graphs imported, None for one that cannot be read."""
    for one in graph.imports:
        other = path.parent / one.path
        if other.resolve() in seen and other.resolve() not in chain:
            continue
        seen.add(other.resolve())
        try:
            read = _read(one, other, chain, found)
        except DiagnosticError as error:
            if found is None:
                raise
            for diagnostic in error.diagnostics:
                found.add(diagnostic)
            yield None
            continue
        yield from _imported(read, other, (*chain, other.resolve()), seen, root, found)
        yield replace(read, imports=(), uses=tuple(_moved(u, other.parent, root) for u in read.uses))


def _read(one: Import, other: Path, chain: tuple[Path, ...], found: Diagnostics | None) -> Graph:
    if other.resolve() in chain:
        names = " -> ".join(p.name for p in (*chain[chain.index(other.resolve()) :], other))
        fix = "move what both need into a file of its own"
        fail("RL0106", f"these files import each other: {names}", span=one.span, fix=fix)
    if other.suffix != ".rl":
        fix = "Python algorithms import each other with Python's own `import`; functions come by `use`"
        fail("RL0103", f"`{one.path}` is no .rl file", span=one.span, expected=".rl", found=one.path, fix=fix)
    return parse(_text(other, one), str(other), found)


def _names(value: object) -> Iterator[str]:
    """Every name that a graph mentions, and more."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _names(item)
    elif is_dataclass(value) or isinstance(value, Frozen):
        names = value.__struct_fields__ if isinstance(value, Frozen) else [field.name for field in fields(value)]
        for name in names:
            yield from _names(getattr(value, name))


def _moved(use: Use, folder: Path, root: Path) -> Use:
    return replace(use, path=Path(os.path.relpath(folder / use.path, root)).as_posix())


def _text(path: Path, one: Import) -> str:
    shown, span = one.path, one.span
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        near = [p.name for p in path.parent.glob("*.rl")] if path.parent.is_dir() else []
        fail("RL0101", f"cannot read `{shown}`: {error.strerror}", span=span, fix=did_you_mean(path.name, near))
    except UnicodeDecodeError as error:
        fail("RL0101", f"cannot read `{shown}`: it is not UTF-8 text ({error.reason} at byte {error.start})", span=span)
