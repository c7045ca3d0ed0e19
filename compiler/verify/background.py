"""What begins in the background is waited for, once; beside it nothing runs that it could meet.

Which fields a function holds `residency` proves, and what becomes of a state on its way `memory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    LoadOp,
    OffloadOp,
    OnloadOp,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.verify.facts import Facts, ranks_of

Begun = ComputeOp | SyncWeightsOp | OnloadOp


def background(facts: Facts) -> Iterator[str]:
    """Walks each program with what runs beside it."""
    for op in facts.ops:
        if isinstance(op, ComputeOp) and op.background and op.collective:
            yield f"`{op.id}` sums over ranks in the background, where these are in no order"
        if isinstance(op, SyncWeightsOp) and op.background:
            yield from _moves_nothing(op, facts)
        if isinstance(op, LoadOp) and op.prefetch and op.first:
            yield f"`{op.id}` reads ahead, and reads the same rows each time"
    for program in facts.plan.programs:
        where = f" ({ranks_of(program)})"
        running: dict[str, Begun] = {}
        for op in program.ops:
            if isinstance(op, WaitOp):
                begun = running.pop(op.begun, None)
                yield from (problem + where for problem in _wait(op, begun))
                continue
            begins = isinstance(op, Begun) and op.background
            yield from (problem + where for problem in _meets(op, running.values(), facts, begins=begins))
            if isinstance(op, Begun) and op.background:
                running[op.id] = op
        for name in running:
            yield f"nothing waits for `{name}`, which runs in the background{where}"


def _moves_nothing(op: SyncWeightsOp, facts: Facts) -> Iterator[str]:
    if op.sync is SyncKind.LOCAL:
        yield f"`{op.id}` runs in the background, and its engine shares the model's own weights"
    if not any(isinstance(o, TrainOp) and facts.trunks[o.model] == facts.trunks[op.model] for o in facts.ops):
        yield f"`{op.id}` runs in the background, and nothing trains `{op.model}`"


def _wait(op: WaitOp, begun: Begun | None) -> Iterator[str]:
    if begun is None:
        yield f"`{op.id}` waits for `{op.begun}`, which does not run in the background there"
        return
    if (op.group, op.guard) != (begun.group, begun.guard):
        yield f"`{op.id}` waits on other ranks, or in other steps, than those in which `{begun.id}` runs"
    if op.node != begun.node:
        yield f"`{op.id}` waits for `{begun.id}` of the node `{begun.node}`, and is said to be of `{op.node}`"
    if set(op.holds) != set(begun.reads):
        yield f"`{op.id}` holds other fields than `{begun.id}` reads"


def _meets(op: AnyOp, running: Iterable[Begun], facts: Facts, *, begins: bool) -> Iterator[str]:
    """What may not stand between the beginning of something and its wait; `begins`: the op runs beside as well."""
    own = not begins and _is_own(op, facts)
    for begun in running:
        if isinstance(op, CollectOp) and begun.guard is not None and begun.guard.until == op.into:
            yield f"`{op.id}` adds to `{op.into}` between `{begun.id}` and its wait, which must ask it alike"
        if own and isinstance(begun, ComputeOp) and _is_own(begun, facts):
            yield f"`{op.id}` calls a function of the user's while `{begun.id}` runs: they may touch the same things"
        if isinstance(begun, SyncWeightsOp):
            yield from _disturbs(op, begun, facts)


def _is_own(op: AnyOp, facts: Facts) -> bool:
    called = op.function if isinstance(op, ComputeOp) else op.loss if isinstance(op, TrainOp) else None
    return called is not None and facts.functions[called].file is not None


def _disturbs(op: AnyOp, begun: SyncWeightsOp, facts: Facts) -> Iterator[str]:
    """Until they have arrived, the weights stay as they are and where they are, and nobody uses the engine."""
    trunk, engine = facts.trunks[begun.model], (begun.model, begun.staleness)
    match op:
        case TrainOp() if facts.trunks[op.model] == trunk:
            yield f"`{op.id}` changes weights of `{begun.model}` while `{begun.id}` transfers them"
        case GenerateOp() | ExtendOp() if (op.model, op.staleness) == engine:
            yield f"`{op.id}` generates with `{op.model}` while `{begun.id}` writes its weights"
        case OnloadOp() | OffloadOp() if (op.model, op.state, op.staleness) in (
            (trunk, State.WEIGHTS, 0),
            (begun.model, State.ENGINE, begun.staleness),
        ):
            yield f"`{op.id}` moves the {op.state} of `{op.model}` while `{begun.id}` transfers weights"
