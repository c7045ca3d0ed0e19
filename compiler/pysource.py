"""The user's Python source: where calls and functions stand in it, and what the body of a node calls."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import CodeType, FrameType
from typing import Any

from rldsl.diagnostics import Span

_OURS = ("rldsl.", "contextlib")
_KEPT = 16  # files whose analysis is kept
_SHORT = 500  # instructions
_Place = tuple[int, int, int, int]  # line and column in bytes, from 1 and 0, of beginning and end


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """What is looked up in a source: functions by name and first line, calls by place, the variables they go to."""

    functions: dict[tuple[str, int], ast.FunctionDef]
    calls: dict[_Place, ast.Call]
    variables: dict[_Place, str]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the user called us, and where each named value of that call stands."""

    span: Span
    names: Mapping[str, Span] = field(default_factory=dict)

    def of(self, name: str) -> Span:
        """The place of a named value; that of the call where it is not known."""
        return self.names.get(name, self.span)


_files: dict[str, tuple[list[str], SourceFile | None]] = {}
_positions: dict[int, tuple[CodeType, list[tuple[int | None, int | None, int | None, int | None]]]] = {}


def source_of(file: str) -> SourceFile | None:
    """The source called `file`, be it on disk or a notebook's cell; None when it is unknown or does not parse."""
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    known = _files.get(file)
    if known is not None and known[0] is lines:
        return known[1]
    if len(_files) >= _KEPT:
        _files.clear()
    try:
        read = _read("".join(lines)) if lines else None
    except (SyntaxError, ValueError):
        read = None
    _files[file] = (lines, read)
    return read


def _read(text: str) -> SourceFile:
    read = SourceFile(functions={}, calls={}, variables={})
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            read.calls[_place_of(node)] = node
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            read.functions[node.name, first] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name, call in _assigned(target, node.value):
                    read.variables[_place_of(call)] = name
    return read


def _place_of(node: ast.expr | ast.keyword) -> _Place:
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def _assigned(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, ast.Call]]:
    """The names that get the value of a call: `a = f()`, and `a, b = f(), g()`."""
    if isinstance(target, ast.Name) and isinstance(value, ast.Call):
        yield target.id, value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _assigned(one, its)


def _place(frame: FrameType) -> _Place:
    """The place of the call that `frame` is executing."""
    code, index = frame.f_code, frame.f_lasti // 2
    if index < _SHORT:
        place = next(islice(code.co_positions(), index, None))
    else:
        # A long file has many calls: looking each one up from the beginning would take quadratic time.
        if id(code) not in _positions or _positions[id(code)][0] is not code:
            _positions.clear()
            _positions[id(code)] = (code, list(code.co_positions()))
        place = _positions[id(code)][1][index]
    line, end_line, column, end_column = place
    line = line or frame.f_lineno
    return line, column or 0, end_line or line, end_column or 0


def column_of(file: str, line: int, offset: int) -> int:
    """The column, from 1, of a byte offset: Python counts bytes, a reader letters."""
    text = linecache.getline(file, line)
    return (offset if text.isascii() else len(text.encode()[:offset].decode(errors="ignore"))) + 1


def _span(file: str, place: _Place) -> Span:
    line, start, end_line, end = place
    return Span(file, line, column_of(file, line, start), end_line, column_of(file, end_line, end))


def span_in(file: str, node: ast.expr) -> Span:
    """Where a part of a source stands."""
    return _span(file, _place_of(node))


def site_of(frame: FrameType) -> Site:
    """The call that `frame` is executing."""
    file, place = frame.f_code.co_filename, _place(frame)
    source = source_of(file)
    call = source.calls.get(place) if source else None
    names = {k.arg: _span(file, _place_of(k)) for k in call.keywords if k.arg} if call else {}
    return Site(span=_span(file, place), names=names)


def caller_frame() -> FrameType:
    """The innermost frame that is the user's: the one that called us."""
    frame = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_OURS):
        frame = frame.f_back
    return frame


def caller_site() -> Site:
    """The call of ours that the user's code is executing."""
    return site_of(caller_frame())


def caller_span() -> Span:
    """Where the user's code called us."""
    frame = caller_frame()
    return _span(frame.f_code.co_filename, _place(frame))


def variable_of_call(frame: FrameType) -> str | None:
    """The variable that the call which `frame` is executing is assigned to, as far as the source tells."""
    source = source_of(frame.f_code.co_filename)
    return source.variables.get(_place(frame)) if source else None


def definition_of(code: CodeType) -> ast.FunctionDef | None:
    """The syntax tree of a function, wherever its source is (a file, a notebook's cell)."""
    source = source_of(code.co_filename)
    return source.functions.get((code.co_name, code.co_firstlineno)) if source else None


def name_span(definition: ast.FunctionDef, file: str) -> Span:
    """Where the name of a function stands in its `def`."""
    column = column_of(file, definition.lineno, definition.col_offset) + len("def ")
    return Span(file, definition.lineno, column, definition.lineno, column + len(definition.name))


def has_body(definition: ast.FunctionDef) -> bool:
    """Whether a function does anything: a docstring, `...` and `pass` do not."""
    return not all(
        isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in definition.body
    )


def calls_in(definition: ast.FunctionDef) -> list[ast.Call] | None:
    """The calls of a body that is one call, a docstring aside: `return f(...)`, or `x = f(...); return g(x, ...)`.

    The outer call last. None for any other body.
    """
    body = definition.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    simple = (ast.Assign, ast.AnnAssign)
    if not body or not isinstance(body[-1], ast.Return) or not all(isinstance(s, simple) for s in body[:-1]):
        return None
    values = [s.value for s in body if isinstance(s, (ast.Return, *simple)) and s.value is not None]
    calls = [n for v in values for n in ast.walk(v) if isinstance(n, ast.Call)]
    outer = body[-1].value
    trains = isinstance(outer, ast.Call) and isinstance(outer.func, ast.Attribute) and outer.func.attr == "train"
    if not isinstance(outer, ast.Call) or len(calls) != (2 if trains else 1):
        return None
    return [*(c for c in calls if c is not outer), outer]


def resolve_callee(callee: ast.expr, function: Callable[..., Any]) -> object:
    """What a name or dotted name in a function's body stands for, without running anything; None if unknown."""
    if isinstance(callee, ast.Name):
        scope = inspect.getclosurevars(function)
        for names in (scope.nonlocals, scope.globals, scope.builtins):
            if callee.id in names:
                return names[callee.id]
        return None
    if isinstance(callee, ast.Attribute):
        owner = resolve_callee(callee.value, function)
        return None if owner is None else getattr(owner, callee.attr, None)
    return None
