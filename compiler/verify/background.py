"""What begins in the background is waited for, once; beside it nothing runs that it could meet.

Which fields a function holds `residency` proves, and what becomes of a state on its way `memory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rldsl.compiler.ops import AnyOp, CollectOp, ComputeOp, LoadOp, OnloadOp, TrainOp, WaitOp
from rldsl.compiler.verify.facts import Facts, ranks_of


def background(facts: Facts) -> Iterator[str]:
    """Walks each program with what runs beside it."""
    for op in facts.ops:
        if isinstance(op, ComputeOp) and op.background and op.collective:
            yield f"`{op.id}` sums over ranks in the background, where these are in no order"
        if isinstance(op, LoadOp) and op.prefetch and op.first:
            yield f"`{op.id}` reads ahead, and reads the same rows each time"
    for program in facts.plan.programs:
        where = f" ({ranks_of(program)})"
        running: dict[str, ComputeOp | OnloadOp] = {}
        for op in program.ops:
            if isinstance(op, WaitOp):
                begun = running.pop(op.begun, None)
                yield from (problem + where for problem in _wait(op, begun))
            elif isinstance(op, ComputeOp | OnloadOp) and op.background:
                running[op.id] = op
            else:
                functions = (each for each in running.values() if isinstance(each, ComputeOp))
                yield from (problem + where for problem in _meets(op, functions, facts))
        for name in running:
            yield f"nothing waits for `{name}`, which runs in the background{where}"


def _wait(op: WaitOp, begun: ComputeOp | OnloadOp | None) -> Iterator[str]:
    if begun is None:
        yield f"`{op.id}` waits for `{op.begun}`, which does not run in the background there"
        return
    if (op.group, op.guard) != (begun.group, begun.guard):
        yield f"`{op.id}` waits on other ranks, or in other steps, than those in which `{begun.id}` runs"
    if op.node != begun.node:
        yield f"`{op.id}` waits for `{begun.id}` of the node `{begun.node}`, and is said to be of `{op.node}`"
    if set(op.holds) != set(begun.reads):
        yield f"`{op.id}` holds other fields than `{begun.id}` reads"


def _meets(op: AnyOp, running: Iterable[ComputeOp], facts: Facts) -> Iterator[str]:
    """What may not stand between the beginning of a function and its wait."""
    if not isinstance(op, CollectOp) and not _is_own(op, facts):
        return
    for begun in running:
        if isinstance(op, CollectOp) and begun.guard is not None and begun.guard.until == op.into:
            yield f"`{op.id}` adds to `{op.into}` between `{begun.id}` and its wait, which must ask it alike"
        if _is_own(op, facts) and _is_own(begun, facts):
            yield f"`{op.id}` calls a function of the user's while `{begun.id}` runs: they may touch the same things"


def _is_own(op: AnyOp, facts: Facts) -> bool:
    called = op.function if isinstance(op, ComputeOp) else op.loss if isinstance(op, TrainOp) else None
    return called is not None and facts.functions[called].file is not None
