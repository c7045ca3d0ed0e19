"""Ranges that parameters declare."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import format_scalar
from rldsl.compiler.ir import Module, Param, ParamType, Range
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import fits
from rldsl.diagnostics import Diagnostics

_NUMBERS = (ParamType.INT, ParamType.FLOAT)


@dataclass(frozen=True, kw_only=True)
class CheckRanges:
    """Check that a range has the type of its parameter and holds a value.

    Before: `param clip : float = 0.2 in (1, 0]`.   After: RL0406, and the parameter without a range.
    """

    name: ClassVar[str] = "check_ranges"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph with the ranges that are right."""
        params = tuple(_checked(p, context.found) for p in module.graph.params)
        return replace(module, graph=replace(module.graph, params=params))


def _checked(param: Param, found: Diagnostics) -> Param:
    within = param.range
    if within is None:
        return param
    why = _wrong_choice(param, within) if within.choices else _wrong_interval(param, within)
    if why is not None:
        found.error("RL0406", f"the range of `{param.name}` {why[0]}", span=param.span, expected=why[1], fix=why[2])
        return replace(param, range=None)
    return param


def _wrong_choice(param: Param, within: Range) -> tuple[str, str, str | None] | None:
    wrong = [format_scalar(c) for c in within.choices if not fits(c, param.type)]
    if not wrong:
        return None
    return f"holds {', '.join(wrong)}", f"choices of type {param.type}", None


def _wrong_interval(param: Param, within: Range) -> tuple[str, str, str | None] | None:
    if param.type not in _NUMBERS:
        return "is an interval", "an interval of an int or a float", 'list the choices: `in {"a", "b"}`'
    if within.low is None or within.high is None:
        return None
    if within.low > within.high:
        return "ends before it begins", "the lower end first", "exchange the two ends"
    return ("holds no value", f"an {param.type} between the two ends", None) if _empty(param, within) else None


def _empty(param: Param, within: Range) -> bool:
    assert within.low is not None and within.high is not None
    if param.type is ParamType.FLOAT:
        return within.low == within.high and (within.low_open or within.high_open)
    first = math.floor(within.low) + 1 if within.low_open else math.ceil(within.low)
    last = math.ceil(within.high) - 1 if within.high_open else math.floor(within.high)
    return first > last
