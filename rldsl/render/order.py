"""Which ops of a plan run earlier or later than in another, apart from the order of nodes that could run at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rldsl.compiler.ops import AnyOp, FreeOp, LoadOp, OffloadOp, OnloadOp, ReshardOp, SaveOp, SyncWeightsOp, WaitOp
from rldsl.compiler.plan import Plan
from rldsl.render.facts import in_order
from rldsl.render.nodes import node_ids
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
    runs = groupby(_placed([op for op in in_order(plan) if not isinstance(op, FreeOp)], plan), key=lambda p: p.run)
    return list(dict.fromkeys(name for _, run in runs for each in sorted(run) for name in each.names))


class _Placed(NamedTuple):
    """Ops that stay together, in a run of those that may change places; loads and moves go before nodes."""

    run: str
    rank: int
    names: tuple[str, ...]


def _placed(ops: Sequence[AnyOp], plan: Plan) -> Iterator[_Placed]:
    """A transfer of weights stays with its rollout where it stands right before it, and else where it is."""
    before: tuple[str, ...] = ()
    for index, op in enumerate(ops):
        following = next((o for o in ops[index + 1 :] if _is_node(o)), None)
        if isinstance(op, SyncWeightsOp):
            if following and following.node == op.node:
                before += (_name(op),)
            else:
                yield _Placed(f"alone {index}", 0, (_name(op),))
        elif _is_node(op):
            first, *others = node_ids(op)
            depth = f"depth {plan.depths.get(op.node or '')}"
            yield _Placed(depth, 1, (first, *before))
            yield from (_Placed(depth, 1, (name,)) for name in others)
            before = ()
        else:
            level = plan.depths.get(following.node or "") if following else None
            yield _Placed(f"depth {level}", 0, (_name(op),))


def _is_node(op: AnyOp) -> bool:
    return op.node is not None and not isinstance(op, LoadOp | ReshardOp | SyncWeightsOp | WaitOp)


def _name(op: AnyOp) -> str:
    if isinstance(op, SyncWeightsOp | SaveOp | OnloadOp | OffloadOp):
        return _of_model(op)
    if isinstance(op, WaitOp):
        return f"wait for {general(op.begun)}"
    if isinstance(op, LoadOp):
        return f"input of {', '.join(sorted(map(general, op.columns)))}"
    if isinstance(op, ReshardOp):
        return f"move of {', '.join(sorted(map(general, op.fields)))} to {op.target}"
    return general(op.node or op.id)


def _of_model(op: SyncWeightsOp | SaveOp | OnloadOp | OffloadOp) -> str:
    if isinstance(op, SyncWeightsOp):
        return f"weights of {op.model}" + (f", staleness {op.staleness}" if op.staleness else "")
    if isinstance(op, SaveOp):
        return f"save of {op.model}"
    return f"{op.state} of {op.model} {'back' if isinstance(op, OnloadOp) else 'away'}"


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
