"""Which ops of a plan run earlier or later than in another, apart from the order of nodes that could run at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rldsl.compiler.plan import AnyOp, FreeOp, LoadOp, Plan, ReshardOp, SaveOp, SyncWeightsOp
from rldsl.render.facts import in_order
from rldsl.render.scopes import general


class Moved(NamedTuple):
    """An op and what it stood behind, and stands behind now."""

    name: str
    before: str
    after: str


def moved(a: Plan, b: Plan) -> tuple[Moved, ...]:
    """The fewest ops without which the rest is in the same order in both. Rounds of a loop are one."""
    old, new = _sequence(a), _sequence(b)
    common = set(old) & set(new)
    first, second = ([n for n in names if n in common] for names in (old, new))
    place = {name: i for i, name in enumerate(second)}
    kept = {first[i] for i in _rising([place[n] for n in first])}
    found = [Moved(n, _behind(old, n), _behind(new, n)) for n in first if n not in kept]
    return tuple(dict.fromkeys(found))


def _behind(names: Sequence[str], name: str) -> str:
    index = names.index(name)
    return f"behind {names[index - 1]}" if index else "first"


def _sequence(plan: Plan) -> list[str]:
    """Names of ops in order; those that follow one another at one depth by name, as their order has no meaning."""
    ops = [op for op in in_order(plan) if not isinstance(op, FreeOp)]
    depths = [plan.depths.get(op.node or "") for op in ops]
    for index in reversed(range(len(ops))):
        if depths[index] is None:  # a load or a move serves what comes next
            depths[index] = depths[index + 1] if index + 1 < len(ops) else None
    runs = groupby(zip(depths, map(_name, ops), strict=True), key=lambda pair: pair[0])
    return list(dict.fromkeys(name for _, run in runs for name in sorted(n for _, n in run)))


def _name(op: AnyOp) -> str:
    if isinstance(op, SyncWeightsOp):
        return f"weights of {op.model}" + (f", staleness {op.staleness}" if op.staleness else "")
    if isinstance(op, SaveOp):
        return f"save of {op.model}"
    if isinstance(op, LoadOp):
        return f"input of {', '.join(sorted(map(general, op.columns)))}"
    if isinstance(op, ReshardOp):
        return f"move of {', '.join(sorted(map(general, op.fields)))} to {op.target}"
    return general(op.node or op.id)


def _rising(numbers: Sequence[int]) -> list[int]:
    """The positions of a longest rising subsequence."""
    ends: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for index, number in enumerate(numbers):
        length = bisect_left(ends, number)
        before.append(at[length - 1] if length else -1)
        ends[length : length + 1], at[length : length + 1] = [number], [index]
    chain = [at[-1]] if at else []
    while chain and before[chain[-1]] >= 0:
        chain.append(before[chain[-1]])
    return chain
