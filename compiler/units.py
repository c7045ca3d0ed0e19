"""What an expression counts: prompts, samples, tokens, or nothing that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rldsl.compiler.expr import Binary, Expr, Literal, ParamRef, Unary
from rldsl.diagnostics import Span

Mixed = Callable[[str, str, Span | None], None]
_DIVISIONS = ("/", "//")


def unit_of(expr: Expr, units: Mapping[str, str | None], mixed: Mixed) -> str | None:
    """The unit of `expr`, where `units` has those of the parameters; None for a plain number.

    `mixed` is told of two units that are added or compared. A number of prompts times or over a plain number counts
    prompts; a number of prompts over a number of prompts counts nothing.
    """
    match expr:
        case Literal(unit=unit):
            return unit
        case ParamRef(name=name):
            return units.get(name)
        case Unary(op=op, operand=operand):
            unit = unit_of(operand, units, mixed)
            return unit if op == "-" else None
        case Binary(op=op, left=left, right=right):
            return _of_two(op, unit_of(left, units, mixed), unit_of(right, units, mixed), expr.span, mixed)


def _of_two(op: str, left: str | None, right: str | None, span: Span | None, mixed: Mixed) -> str | None:
    if op in ("and", "or"):
        return None
    if op == "*":
        return None if left and right else left or right
    if op in _DIVISIONS:
        return None if right else left
    if left and right and left != right:
        mixed(left, right, span)
        return None
    return left or right if op in ("+", "-", "%") else None
