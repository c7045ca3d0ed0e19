"""What stands for parameters, fields, calls and sources while the user's Python runs to be recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from rldsl.compiler.expr import Binary, Expr, Literal, ParamRef, Unary, negate, unfit
from rldsl.compiler.ir import Call, FieldArg, Keyword, Method, Param, ParamType, Range, SourceCall
from rldsl.compiler.ops import Scalar
from rldsl.compiler.pysource import Site, caller_span, site_of, variable_of_call
from rldsl.diagnostics import Span, fail
from rldsl.types import FieldType

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

    def __str__(self) -> str:
        fix = "join strings in a function of yours, where the value is known, or make the whole text a parameter"
        return fail("RL0105", "a parameter has no value yet, so no text can be made of it", span=caller_span(), fix=fix)

    def __format__(self, spec: str) -> str:
        return str(self)

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

    def __rtruediv__(self, other: object) -> Handle:
        return OperatorHandle("/", other, self)

    def __floordiv__(self, other: object) -> Handle:
        return OperatorHandle("//", self, other)

    def __rfloordiv__(self, other: object) -> Handle:
        return OperatorHandle("//", other, self)

    def __mod__(self, other: object) -> Handle:
        return OperatorHandle("%", self, other)

    def __rmod__(self, other: object) -> Handle:
        return OperatorHandle("%", other, self)

    def __and__(self, other: object) -> Handle:
        return OperatorHandle("and", self, other)

    def __rand__(self, other: object) -> Handle:
        return OperatorHandle("and", other, self)

    def __or__(self, other: object) -> Handle:
        return OperatorHandle("or", self, other)

    def __ror__(self, other: object) -> Handle:
        return OperatorHandle("or", other, self)

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


class QuantityHandle(Handle):
    """A number with the unit that it counts: `64 prompts`."""

    def __init__(self, value: float, unit: str) -> None:
        self.value, self.unit = value, unit

    def expr(self) -> Expr:
        """The number and its unit."""
        return Literal(value=self.value, unit=self.unit)


class ParamHandle(Handle):
    """A parameter; its name is the variable that it is assigned to, unless one is given."""

    def __init__(
        self,
        default: Scalar,
        *,
        name: str | None = None,
        unit: str | None = None,
        within: Range | None = None,
        frame: FrameType,
    ) -> None:
        self.default, self.unit, self.range = default, unit, within
        self.span = site_of(frame).span
        self.name = name or variable_of_call(frame)
        self._scopes: tuple[Mapping[str, Any], ...] = () if self.name else (frame.f_locals, frame.f_globals)

    def find_name(self) -> str | None:
        """The name, as far as it is known by now: a variable is assigned after its value is made."""
        if self.name is None:
            self.name = next((k for space in self._scopes for k, v in space.items() if v is self), None)
        if self.name is not None:
            self._scopes = ()
        return self.name

    def resolved_name(self) -> str:
        """The name; RL0105 when it has none."""
        name = self.find_name()
        if name is None:
            fix = "assign it to a variable, or give `name=`"
            fail("RL0105", "this parameter has no name", span=self.span, fix=fix)
        return name

    def param(self) -> Param:
        """The IR's parameter. RL0304 for a default of no known type, or that no plan can hold."""
        name, kind = self.resolved_name(), _PARAM_TYPES.get(type(self.default))
        if why := unfit(self.default):
            fail("RL0304", f"the default of `{name}`: {why}", span=self.span)
        if kind is None:
            fail(
                "RL0304",
                f"the default of `{name}` has type {type(self.default).__name__}",
                span=self.span,
                expected="int, float, bool or str",
                found=repr(self.default),
            )
        return Param(name=name, type=kind, default=self.default, unit=self.unit, range=self.range, span=self.span)

    def expr(self) -> Expr:
        """A reference to the parameter."""
        return ParamRef(name=self.resolved_name())


def to_expr(value: object, span: Span | None = None) -> Expr:
    """A handle's expression, or a constant. RL0304 for one that no plan can hold, RL0105 for anything else."""
    if isinstance(value, Handle):
        return value.expr()
    if value is None or isinstance(value, (bool, int, float, str)):
        if why := unfit(value):
            fail("RL0304", why, span=span)
        return Literal(value=value, span=span)
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
    """A call that a node's body returned; keyword values are still handles or constants.

    `file` is the user's file that holds the function, `writes` the types of what it returns, where known.
    """

    model: str | None = None
    method: Method | None = None
    function: str | None = None
    args: tuple[FieldArg, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    file: str | None = None
    writes: tuple[FieldType | None, ...] = ()
    site: Site
    option_site: Site | None = None

    def call(self) -> Call:
        """The IR's call, once parameters have names."""
        return Call(
            model=self.model,
            method=self.method,
            function=self.function,
            args=self.args,
            keywords=keywords_of(self.keywords, self.site),
            options=keywords_of(self.options, self.option_site or self.site),
            span=self.site.span,
        )


def keywords_of(values: Mapping[str, object], site: Site) -> tuple[Keyword, ...]:
    """Named values as the IR has them."""
    return tuple(Keyword(name=k, value=to_expr(v, site.of(k)), span=site.of(k)) for k, v in values.items())


@dataclass(frozen=True, kw_only=True)
class SourceHandle:
    """Where weights or rows come from, before parameters have names."""

    kind: str
    args: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)
    site: Site

    def call(self) -> SourceCall:
        """The IR's source."""
        args = tuple(to_expr(a, self.site.span) for a in self.args)
        return SourceCall(
            kind=self.kind, args=args, keywords=keywords_of(self.keywords, self.site), span=self.site.span
        )


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
                span=caller_span(),
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
