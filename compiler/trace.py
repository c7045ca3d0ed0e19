"""Python to the IR: what the decorator API records, and running a file to record it."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from rldsl.compiler.expr import Binary, Expr, Literal, ParamRef, Unary, negate
from rldsl.compiler.ir import (
    Call,
    Deploy,
    FieldArg,
    Graph,
    Input,
    Keyword,
    Method,
    Model,
    Node,
    Param,
    ParamType,
    PhaseLayout,
    SourceCall,
    Use,
)
from rldsl.compiler.plan import Scalar
from rldsl.diagnostics import DiagnosticError, Span, fail

_PARAM_TYPES = {bool: ParamType.BOOL, int: ParamType.INT, float: ParamType.FLOAT, str: ParamType.STR}


class Handle(ABC):
    """An expression over parameters, built with Python's operators. `&`, `|`, `~` stand for and, or, not."""

    @abstractmethod
    def expr(self) -> Expr:
        """The expression, once parameters have names."""

    def __bool__(self) -> bool:
        raise TypeError(
            "a parameter has no value yet: use `&`, `|`, `~` instead of and, or, not, and `when=` instead of if"
        )

    def __eq__(self, other: object) -> Handle:  # type: ignore[override]
        return OperatorHandle("==", self, other)

    def __ne__(self, other: object) -> Handle:  # type: ignore[override]
        return OperatorHandle("!=", self, other)

    __hash__ = object.__hash__

    def __lt__(self, other: object) -> Handle:
        return OperatorHandle("<", self, other)

    def __le__(self, other: object) -> Handle:
        return OperatorHandle("<=", self, other)

    def __gt__(self, other: object) -> Handle:
        return OperatorHandle(">", self, other)

    def __ge__(self, other: object) -> Handle:
        return OperatorHandle(">=", self, other)

    def __add__(self, other: object) -> Handle:
        return OperatorHandle("+", self, other)

    def __radd__(self, other: object) -> Handle:
        return OperatorHandle("+", other, self)

    def __sub__(self, other: object) -> Handle:
        return OperatorHandle("-", self, other)

    def __rsub__(self, other: object) -> Handle:
        return OperatorHandle("-", other, self)

    def __mul__(self, other: object) -> Handle:
        return OperatorHandle("*", self, other)

    def __rmul__(self, other: object) -> Handle:
        return OperatorHandle("*", other, self)

    def __truediv__(self, other: object) -> Handle:
        return OperatorHandle("/", self, other)

    def __floordiv__(self, other: object) -> Handle:
        return OperatorHandle("//", self, other)

    def __mod__(self, other: object) -> Handle:
        return OperatorHandle("%", self, other)

    def __and__(self, other: object) -> Handle:
        return OperatorHandle("and", self, other)

    def __or__(self, other: object) -> Handle:
        return OperatorHandle("or", self, other)

    def __invert__(self) -> Handle:
        return OperatorHandle("not", self)

    def __neg__(self) -> Handle:
        return OperatorHandle("-", self)


class OperatorHandle(Handle):
    """An operator over handles and constants."""

    def __init__(self, op: str, *operands: object) -> None:
        self.op, self.operands = op, operands

    def expr(self) -> Expr:
        """The operator's expression."""
        parts = [to_expr(o) for o in self.operands]
        if len(parts) == 1:
            return negate(parts[0]) if self.op == "-" else Unary(op=self.op, operand=parts[0])
        return Binary(op=self.op, left=parts[0], right=parts[1])


class ParamHandle(Handle):
    """A parameter; its name is the variable that it is assigned to, unless one is given."""

    def __init__(self, default: Scalar, name: str | None, unit: str | None, frame: FrameType) -> None:
        self.default, self.name, self.unit = default, name, unit
        self.span = span_of_call(frame)
        self.namespaces: tuple[Mapping[str, Any], ...] = (frame.f_locals, frame.f_globals)

    def resolved_name(self) -> str:
        """The name; RL0105 when it has none."""
        if self.name is None:
            found = (k for space in self.namespaces for k, v in space.items() if v is self)
            self.name = next(found, None)
        if self.name is None:
            fail(
                "RL0105",
                "this parameter has no name",
                span=self.span,
                fix="assign it to a variable, or give `name=`",
            )
        return self.name

    def expr(self) -> Expr:
        """A reference to the parameter."""
        return ParamRef(name=self.resolved_name())


def to_expr(value: object, span: Span | None = None) -> Expr:
    """A handle's expression, or a constant. RL0105 for anything else."""
    if isinstance(value, Handle):
        return value.expr()
    if value is None or isinstance(value, (bool, int, float, str)):
        return Literal(value=value)
    return fail(
        "RL0105",
        f"a value of type {type(value).__name__} cannot stand in a graph",
        span=span,
        expected="a parameter, number, string or truth value",
    )


@dataclass(frozen=True, kw_only=True)
class FieldHandle:
    """A field inside the body of a node; it can only be handed on."""

    name: str
    optional: bool = False
    span: Span | None = None

    def arg(self, param: str | None = None) -> FieldArg:
        """The field as an argument."""
        return FieldArg(name=self.name, optional=self.optional, param=param, span=self.span)


@dataclass(frozen=True, kw_only=True)
class CallHandle:
    """A call that a node's body returned; keyword values are still handles or constants."""

    model: str | None = None
    method: Method | None = None
    function: str | None = None
    args: tuple[FieldArg, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    file: str | None = None

    def call(self, span: Span | None) -> Call:
        """The IR's call, once parameters have names."""
        return Call(
            model=self.model,
            method=self.method,
            function=self.function,
            args=self.args,
            keywords=_keywords(self.keywords, span),
            options=_keywords(self.options, span),
            span=span,
        )


def _keywords(values: Mapping[str, object], span: Span | None) -> tuple[Keyword, ...]:
    return tuple(Keyword(name=k, value=to_expr(v, span), span=span) for k, v in values.items())


@dataclass(frozen=True, kw_only=True)
class SourceHandle:
    """Where weights or rows come from, before parameters have names."""

    kind: str
    args: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)

    def call(self, span: Span | None) -> SourceCall:
        """The IR's source."""
        args = tuple(to_expr(a, span) for a in self.args)
        return SourceCall(kind=self.kind, args=args, keywords=_keywords(self.keywords, span), span=span)


class Builder:
    """Collects what one file (or notebook) declares; `graph()` makes the IR of it."""

    def __init__(self, name: str = "algorithm", folder: Path | None = None) -> None:
        self.name, self.folder = name, folder or Path()
        self.span: Span | None = None
        self.params: list[ParamHandle] = []
        self.models: list[Callable[[], Model]] = []
        self.inputs: list[Callable[[], Input]] = []
        # By id, so that running a notebook cell again replaces its node.
        self.nodes: dict[str, list[Callable[[], Node]]] = {}
        self.uses: dict[str, Use] = {}
        self.cluster: tuple[int, str] | None = None
        self.layouts: list[Callable[[], PhaseLayout]] = []

    def add_node(self, node_id: str, make: Callable[[], Node]) -> None:
        """Record a node; a second one of the same name in one file is reported as RL0205."""
        self.nodes.setdefault(node_id, []).append(make)

    def use(self, file: str, span: Span | None) -> None:
        """Record a file of functions, relative to the folder of what is being traced."""
        path = Path(os.path.relpath(file, self.folder)).as_posix()
        self.uses.setdefault(path, Use(path=path, span=span))

    def graph(self) -> Graph:
        """The IR. RL0105 where something cannot be made of what was recorded."""
        deploy = None
        if self.cluster or self.layouts:
            count, kind = self.cluster or (None, None)
            deploy = Deploy(count=count, cluster=kind, layouts=tuple(make() for make in self.layouts))
        return Graph(
            name=self.name,
            params=tuple(_param(p) for p in self.params),
            models=tuple(make() for make in self.models),
            inputs=tuple(make() for make in self.inputs),
            nodes=tuple(make() for makes in self.nodes.values() for make in makes),
            uses=tuple(self.uses.values()),
            deploy=deploy,
            span=self.span,
        )


def _param(handle: ParamHandle) -> Param:
    kind = _PARAM_TYPES.get(type(handle.default))
    if kind is None:
        fail(
            "RL0304",
            f"the default of `{handle.resolved_name()}` has type {type(handle.default).__name__}",
            span=handle.span,
            expected="int, float, bool or str",
            found=repr(handle.default),
        )
    return Param(name=handle.resolved_name(), type=kind, default=handle.default, unit=handle.unit, span=handle.span)


_ambient = Builder()
_current: ContextVar[Builder | None] = ContextVar("rldsl_builder", default=None)


def current() -> Builder:
    """The builder that declarations go to: the file being traced, or the session's own."""
    return _current.get() or _ambient


@contextmanager
def recording(builder: Builder) -> Iterator[Builder]:
    """Declarations inside go to `builder`."""
    token = _current.set(builder)
    try:
        yield builder
    finally:
        _current.reset(token)


def span_of_call(frame: FrameType) -> Span:
    """The call that `frame` is executing."""
    positions = list(frame.f_code.co_positions())
    line, end_line, column, end_column = positions[frame.f_lasti // 2]
    line = line or frame.f_lineno
    return Span(frame.f_code.co_filename, line, (column or 0) + 1, end_line or line, (end_column or 0) + 1)


def definition_of(code: CodeType) -> ast.FunctionDef | None:
    """The syntax tree of a function, wherever its source is (a file, a notebook cell)."""
    text = "".join(linecache.getlines(code.co_filename))
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return None


def name_span(definition: ast.FunctionDef, file: str) -> Span:
    """Where the name of a function stands in its `def`."""
    column = definition.col_offset + len("def ") + 1
    return Span(file, definition.lineno, column, definition.lineno, column + len(definition.name))


def calls_in(definition: ast.FunctionDef) -> list[ast.Call] | None:
    """The calls of a body that is one call, a docstring aside: `return f(...)`, or `x = f(...); return g(x, ...)`.

    The outer call last. None for any other body.
    """
    body = definition.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if not body or not isinstance(body[-1], ast.Return) or not all(isinstance(s, ast.Assign) for s in body[:-1]):
        return None
    calls = [n for s in body for n in ast.walk(s) if isinstance(n, ast.Call)]
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


def trace_file(path: Path, text: str) -> Graph:
    """Run a Python file and return what it declared. RL0102 when it does not parse, RL0104 when it raises."""
    name = str(path)
    try:
        code = compile(text, name, "exec")
    except (SyntaxError, ValueError) as error:
        line, column = (error.lineno or 1, error.offset or 1) if isinstance(error, SyntaxError) else (1, 1)
        fail(
            "RL0102",
            f"`{name}` is not Python: {error.args[0]}",
            span=Span(name, line, column, line, column + 1),
        )
    builder = Builder(path.stem, path.parent)
    module = ModuleType(f"rldsl_traced_{path.stem}")
    module.__file__ = name
    # dataclasses and get_type_hints look names up through sys.modules.
    sys.modules[module.__name__] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    linecache.checkcache(name)
    try:
        with recording(builder):
            _execute(code, module.__dict__, name)
            return builder.graph()
    finally:
        sys.path.remove(folder)
        del sys.modules[module.__name__]


def _execute(code: CodeType, namespace: dict[str, Any], name: str) -> None:
    try:
        exec(code, namespace)
    except DiagnosticError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        where = frames[-1] if frames else None
        span = None
        if where is not None and where.lineno is not None:
            span = Span(
                name,
                where.lineno,
                (where.colno or 0) + 1,
                where.end_lineno or where.lineno,
                (where.end_colno or 0) + 1,
            )
        fail("RL0104", f"running the file raised {type(error).__name__}: {error}", span=span)


def field_args(
    values: tuple[object, ...], named: Mapping[str, object], what: str
) -> tuple[tuple[FieldArg, ...], dict[str, object]]:
    """Split a call's values into fields and keywords. RL0105 when an unnamed value is no field."""
    args = []
    for value in values:
        if not isinstance(value, FieldHandle):
            fail(
                "RL0105",
                f"`{what}` takes fields before its named values",
                expected="a parameter of the node",
                found=repr(value),
            )
        args.append(value.arg())
    keywords = {}
    for name, value in named.items():
        if isinstance(value, FieldHandle):
            args.append(value.arg(name if name != value.name else None))
        else:
            keywords[name] = value
    return tuple(args), keywords


def output_names(hint: object) -> tuple[str, ...] | None:
    """Names of the fields that a return annotation declares; None when it declares none."""
    if hint is None or hint is type(None):
        return ()
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return tuple(hint._fields)
    if getattr(hint, "__origin__", None) is tuple:
        parts = [output_names(a) for a in hint.__args__]  # type: ignore[attr-defined]
        return None if any(p is None or len(p) != 1 for p in parts) else tuple(p[0] for p in parts if p)
    metadata: tuple[object, ...] = getattr(hint, "__metadata__", ())
    names = [m for m in metadata if isinstance(m, str) and "[" not in m]
    return (names[-1],) if names else None
