"""Expressions over parameters: what follows `when`, and every argument value."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping

from rldsl.compiler.frozen import Frozen
from rldsl.compiler.ops import Scalar
from rldsl.diagnostics import Span

# Weakest first; the number is the binding strength that printing needs for brackets.
BINARY: dict[str, tuple[int, Callable[..., Scalar]]] = {
    "or": (1, lambda a, b: a or b),
    "and": (2, lambda a, b: a and b),
    "==": (4, operator.eq),
    "!=": (4, operator.ne),
    "<": (4, operator.lt),
    "<=": (4, operator.le),
    ">": (4, operator.gt),
    ">=": (4, operator.ge),
    "+": (5, operator.add),
    "-": (5, operator.sub),
    "*": (6, operator.mul),
    "/": (6, operator.truediv),
    "//": (6, operator.floordiv),
    "%": (6, operator.mod),
}
UNARY: dict[str, tuple[int, Callable[..., Scalar]]] = {"not": (3, operator.not_), "-": (7, operator.neg)}
_COMPARISON_STRENGTH = 4


class Literal(Frozen, frozen=True, kw_only=True):
    """A constant, with the unit written after it (`64 prompts`); `text` is the expression that it is the value of."""

    value: Scalar
    unit: str | None = None
    text: str | None = None
    span: Span | None = None


class ParamRef(Frozen, frozen=True, kw_only=True):
    """The value of a parameter."""

    name: str
    span: Span | None = None


class Unary(Frozen, frozen=True, kw_only=True):
    """`not x`, `-x`."""

    op: str
    operand: Expr
    span: Span | None = None


class Binary(Frozen, frozen=True, kw_only=True):
    """`a op b`."""

    op: str
    left: Expr
    right: Expr
    span: Span | None = None


Expr = Literal | ParamRef | Unary | Binary


def unfit(value: Scalar) -> str | None:
    """Why no plan can hold a constant, or None: plans have integers of 64 bits, finite floats and UTF-8 text."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a whole number has at most 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "this number is too large, or none"
    if isinstance(value, str) and "\0" in value:
        return "a string cannot hold a NUL"
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return "a string cannot hold half of a surrogate pair"
    return None


def _fit(value: Scalar) -> Scalar:
    why = unfit(value)
    if why is not None:
        raise ValueError(why)
    return value


def _calculate(op: str, left: Scalar, right: Scalar) -> Scalar:
    """`left op right`; Python would repeat strings, and fill them in."""
    strength, apply = BINARY[op]
    if strength > _COMPARISON_STRENGTH and op != "+" and isinstance(left, str):
        raise TypeError(f"`{op}` is for numbers")
    if op == "*" and isinstance(right, str):
        raise TypeError(f"`{op}` is for numbers")
    return _fit(apply(left, right))


def evaluate(expr: Expr, params: Mapping[str, Scalar]) -> Scalar:
    """The value under `params`.

    Raises KeyError on an unknown name, TypeError or ZeroDivisionError as Python would, ValueError for a value that no
    plan can hold.
    """
    match expr:
        case Literal(value=value):
            return _fit(value)
        case ParamRef(name=name):
            return params[name]
        case Unary(op=op, operand=operand):
            return _fit(UNARY[op][1](evaluate(operand, params)))
        case Binary(op=op, left=left, right=right):
            return _calculate(op, evaluate(left, params), evaluate(right, params))


def negate(operand: Expr, span: Span | None = None) -> Expr:
    """`-operand`; a negated number is the number, so that both front ends agree on `-1`."""
    if isinstance(operand, Literal) and isinstance(operand.value, (int, float)) and not isinstance(operand.value, bool):
        return Literal(value=-operand.value, unit=operand.unit, span=span)
    return Unary(op="-", operand=operand, span=span)


def references(expr: Expr) -> Iterator[ParamRef]:
    """Every parameter mentioned, left to right."""
    match expr:
        case ParamRef():
            yield expr
        case Unary(operand=operand):
            yield from references(operand)
        case Binary(left=left, right=right):
            yield from references(left)
            yield from references(right)
        case Literal():
            return


def format_scalar(value: Scalar) -> str:
    """A constant as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, str):
        escaped = (
            value.replace("\\", "\\\\")
            .replace('"', '\\"')
            .replace("\n", "\\n")
            .replace("\t", "\\t")
            .replace("\r", "\\r")
        )
        return f'"{escaped}"'
    return repr(value)


def format_expr(expr: Expr, outer: int = 0) -> str:
    """Text that parses back to `expr`, with no bracket that is not needed."""
    match expr:
        case Literal(value=value, unit=unit):
            text = format_scalar(value)
            return f"{text} {unit}" if unit else text
        case ParamRef(name=name):
            return name
        case Unary(op=op, operand=operand):
            strength = UNARY[op][0]
            text = f"{op}{' ' if op == 'not' else ''}{format_expr(operand, strength)}"
            return f"({text})" if outer > strength else text
        case Binary(op=op, left=left, right=right):
            strength = BINARY[op][0]
            # Comparisons do not chain, so both sides must bind more tightly; the others associate to the left.
            left_outer = strength + 1 if strength == _COMPARISON_STRENGTH else strength
            text = f"{format_expr(left, left_outer)} {op} {format_expr(right, strength + 1)}"
            return f"({text})" if outer > strength else text
