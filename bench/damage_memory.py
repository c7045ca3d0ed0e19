"""Damage to plans for a budget of memory: moves of states, waits for them, states, and what is said of each op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace as changed_options
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.cost.hardware import GIB
from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    GenerateOp,
    Guard,
    InferOp,
    OffloadOp,
    OnloadOp,
    State,
    SyncWeightsOp,
    Tier,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.pipeline import Compiled, Options, compile_file
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, StateSpec
from rldsl.diagnostics import DiagnosticError

MOVES = (OnloadOp, OffloadOp)
_PARTS = (0.8, 0.6, 0.5)
_PLENTY = 1 << 50


def budgeted(file: Path, options: Options) -> list[tuple[str, Compiled]]:
    """The plans of a file in which states move, for budgets that are parts of what it takes without."""
    found = []
    try:
        free = compile_file(file, changed_options(options, memory=_PLENTY)).plan.memory
    except DiagnosticError:  # this algorithm's batch does not divide over so many ranks
        return []
    for part in _PARTS if free else ():
        assert free is not None
        try:
            made = compile_file(file, changed_options(options, memory=int(free.unplanned * part)))
        except DiagnosticError:  # it does not fit
            continue
        if any(isinstance(op, MOVES) for op in made.plan.ops()):
            found.append((f"{part:.0%} of its memory", made))
    return found


_LARGE = ("model=Qwen/Qwen2.5-32B", "batch=256", "minibatch=64")
_WIDE = "actor.generate : vllm(tp = 4)"
_APART = ("actor.generate : vllm(tp = 4) on 0..15", "actor.train : fsdp() on 0..15", "critic.train : fsdp() on 16..31")


def tiered(ppo: Path) -> Iterator[tuple[str, Compiled]]:
    """Plans of PPO for a large model on GPUs, whose states go to two tiers below: of one class of ranks, and of two."""
    for cluster, layouts in (
        ("16 x h100(host_memory = 20)", (_WIDE,)),
        ("16 x h100(host_memory = 8)", (_WIDE,)),
        ("32 x h100(host_memory = 8)", _APART),
    ):
        options = Options(settings=_LARGE, cluster=cluster, layouts=layouts, memory=43 << 30)
        yield f"{cluster} {layouts}", compile_file(ppo, options)


def _of(d: Damage, *kinds: type[AnyOp], **values: Any) -> Any:
    """One move, onload or offload, with some values."""
    return d.one(
        op for op in d.plan.ops() if isinstance(op, kinds) and all(getattr(op, n) == v for n, v in values.items())
    )


_WITH_STATES = (GenerateOp, ExtendOp, InferOp, TrainOp)


def _user(d: Damage, op: Any, *, before: bool) -> Any:
    """The nearest op of a model before or behind a move."""
    ops = next((p.ops for p in d.plan.programs if op in p.ops), ())
    at = ops.index(op) if op in ops else 0
    beside = ops[:at][::-1] if before else ops[at + 1 :]
    return next((o for o in beside if isinstance(o, _WITH_STATES)), None)


def memory_kind(name: str) -> Callable[[Callable[[Damage, MemoryPlan], Plan | None]], None]:
    """Register damage to what a plan says of its memory."""

    def add(change: Callable[[Damage, MemoryPlan], Plan | None]) -> None:
        kind(f"memory: {name}")(
            lambda d: None if d.plan.memory is None or not _of(d, *MOVES) else change(d, d.plan.memory)
        )

    return add


def _said(d: Damage, memory: MemoryPlan, change: Callable[[OpMemory], OpMemory | None]) -> Plan:
    """The plan with the figures of one op of a class of ranks changed, or left out."""
    at = d.rng.randrange(len(memory.ops))
    ops = tuple(m for i, o in enumerate(memory.ops) if (m := change(o) if i == at else o) is not None)
    return d.header(memory=replace(memory, ops=ops))


def _state(d: Damage, memory: MemoryPlan, change: Callable[[StateSpec], StateSpec | None]) -> Plan:
    """The plan with one state changed, or left out."""
    at = d.rng.randrange(len(memory.states))
    states = tuple(m for i, s in enumerate(memory.states) if (m := change(s) if i == at else s) is not None)
    return d.header(memory=replace(memory, states=states))


def _grown(said: OpMemory, by: int) -> OpMemory:
    """As true in itself as before, but of more bytes."""
    more = said.categories.get("activations", 0) + by
    return replace(said, workspace=said.workspace + by, categories={**said.categories, "activations": more})


# Moves.

kind("memory: an onload dropped")(lambda d: d.dropped(_of(d, OnloadOp)))
kind("memory: an offload dropped")(lambda d: d.dropped(_of(d, OffloadOp)))
kind("memory: a move elsewhere")(lambda d: d.moved(_of(d, *MOVES), before=d.op()))
kind("memory: a move last in the step")(lambda d: d.moved(_of(d, *MOVES)))
kind("memory: two moves exchanged")(lambda d: d.swapped(_of(d, *MOVES), _of(d, *MOVES)))
kind("memory: what changes is not written back")(lambda d: d.changed(_of(d, OffloadOp, keep=True), keep=False))
kind("memory: what need not be is written")(lambda d: d.changed(_of(d, OffloadOp, keep=False), keep=True))
kind("memory: a move in some steps")(lambda d: d.changed(_of(d, *MOVES), guard=Guard(every=d.rng.randrange(2, 5))))


@kind("memory: a move dropped on one rank class")
def _(d: Damage) -> Plan | None:
    found = d.one((p, op) for p in d.plan.programs for op in p.ops if isinstance(op, MOVES))
    return d.dropped(found[1], found[0]) if found and len(d.plan.programs) > 1 else None


@kind("memory: an onload behind its user")
def _(d: Damage) -> Plan | None:
    back = _of(d, OnloadOp)
    user = back and _user(d, _wait(d, back) or back, before=False)
    made = user and d.dropped(back)
    return made and Damage(made, d.rng).followed(user, back)


@kind("memory: an offload before its user")
def _(d: Damage) -> Plan | None:
    away = _of(d, OffloadOp)
    return away and d.moved(away, before=_user(d, away, before=True))


@kind("memory: a move twice")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    return op and d.followed(op, replace(op, id="again"))


@kind("memory: a state away and back for nothing")
def _(d: Damage) -> Plan | None:
    away = _of(d, OffloadOp)
    back = away and OnloadOp(id="back", group=away.group, model=away.model, state=away.state, bytes=away.bytes)
    again = away and replace(away, id="again", keep=False)
    made = back and d.followed(away, replace(back, staleness=away.staleness))
    return made and Damage(made, d.rng).followed(replace(back, staleness=away.staleness), again)


@kind("memory: the bytes of a move off by one")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    return op and d.changed(op, bytes=d.off(op.bytes))


@kind("memory: a move on a wrong group")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    group = op and d.other((g.name for g in d.plan.groups), op.group)
    return d.changed(op, group=group) if group else None


@kind("memory: a move of another state")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    return op and d.changed(op, state=d.other(State, op.state))


@kind("memory: a move of another model")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    model = op and d.other((m.name for m in d.plan.models), op.model)
    return d.changed(op, model=model) if model else None


@kind("memory: a move of a wrong staleness")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    return op and d.changed(op, staleness=1 - op.staleness)


@kind("memory: a move by way of another tier")
def _(d: Damage) -> Plan | None:
    op = _of(d, *MOVES)
    return op and d.changed(op, tier=d.other(Tier, op.tier))


@kind("memory: a transfer behind what it renews")
def _(d: Damage) -> Plan | None:
    sync = d.op(SyncWeightsOp)
    away = sync and _of(d, OffloadOp, model=sync.model)
    return away and d.moved(sync, before=away)


# The background.


def _begun(d: Damage) -> Any:
    return _of(d, OnloadOp, background=True)


def _wait(d: Damage, begun: Any) -> Any:
    return begun and d.one(op for op in d.plan.ops() if isinstance(op, WaitOp) and op.begun == begun.id)


kind("memory: a wait dropped")(lambda d: d.dropped(_wait(d, _begun(d))))
kind("memory: a wait at the end")(lambda d: d.moved(_wait(d, _begun(d))))
kind("memory: a wait elsewhere")(lambda d: d.moved(_wait(d, _begun(d)), before=d.op()))
kind("memory: an onload in the background, waited for nowhere")(
    lambda d: d.changed(_of(d, OnloadOp, background=False), background=True)
)
kind("memory: an onload no longer in the background")(lambda d: d.changed(_begun(d), background=False))
kind("memory: an onload begun elsewhere")(lambda d: d.moved(_begun(d), before=d.op()))


@kind("memory: an onload begun behind its wait")
def _(d: Damage) -> Plan | None:
    begun = _begun(d)
    return d.swapped(begun, _wait(d, begun))


@kind("memory: a late wait")
def _(d: Damage) -> Plan | None:
    wait = _wait(d, _begun(d))
    user = wait and _user(d, wait, before=False)
    made = user and d.dropped(wait)
    return made and Damage(made, d.rng).followed(user, wait)


@kind("memory: a wait twice")
def _(d: Damage) -> Plan | None:
    wait = _wait(d, _begun(d))
    return wait and d.followed(wait, replace(wait, id="again"))


@kind("memory: a wait in some steps, or on other ranks")
def _(d: Damage) -> Plan | None:
    wait = _wait(d, _begun(d))
    group = wait and d.other((g.name for g in d.plan.groups), wait.group)
    return wait and (d.changed(wait, group=group) if group else d.changed(wait, guard=Guard(every=3)))


@kind("memory: a wait for another move")
def _(d: Damage) -> Plan | None:
    wait = _wait(d, _begun(d))
    other = wait and d.other((op.id for op in d.plan.ops() if isinstance(op, MOVES)), wait.begun)
    return d.changed(wait, begun=other) if other else None


@kind("memory: a state that leaves while it comes")
def _(d: Damage) -> Plan | None:
    begun = _begun(d)
    away = begun and _of(d, OffloadOp, model=begun.model, state=begun.state, staleness=begun.staleness)
    return d.moved(away, before=_wait(d, begun))


@kind("memory: a user while its state comes")
def _(d: Damage) -> Plan | None:
    begun = _begun(d)
    wait = _wait(d, begun)
    return wait and d.moved(_user(d, wait, before=False), before=wait)


# What the plan says.


@memory_kind("a state missing")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda _: None)


@memory_kind("a state twice")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return d.header(memory=replace(memory, states=(*memory.states, d.one(memory.states))))


@memory_kind("a state that is there or away when a step begins")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, resident=not s.resident))


@memory_kind("a state that training changes, or does not")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, dirty=not s.dirty))


@memory_kind("the bytes of a state off by one")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, bytes=d.off(s.bytes)))


@memory_kind("a state of a wrong staleness")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, staleness=1 - s.staleness))


@memory_kind("a state of another kind")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, state=d.other(State, s.state)))


@memory_kind("a state of another model")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    names = [m.name for m in d.plan.models]
    return _state(d, memory, lambda s: replace(s, model=d.other([*names, "ghost"], s.model)))


@memory_kind("a state on another group")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    names = [g.name for g in d.plan.groups]
    return _state(d, memory, lambda s: replace(s, group=d.other([*names, "ghost"], s.group)))


@memory_kind("a state on another tier")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _state(d, memory, lambda s: replace(s, tier=d.other(Tier, s.tier)))


@memory_kind("a state of the disk, with its moves, in the host's memory")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    low = [_key(op) for op in d.plan.ops() if isinstance(op, OnloadOp) and op.tier is Tier.DISK]
    chosen = d.one(low)
    if chosen is None:
        return None
    states = tuple(replace(s, tier=Tier.HOST) if _key(s) == chosen else s for s in memory.states)
    made = d.mapped(
        lambda ops: tuple(replace(o, tier=Tier.HOST) if isinstance(o, MOVES) and _key(o) == chosen else o for o in ops)
    )
    return replace(made, memory=replace(memory, states=states))


@memory_kind("a byte less below than comes back from there")
def _(d: Damage, _memory: MemoryPlan) -> Plan | None:
    back = _of(d, OnloadOp)
    if back is None:
        return None
    most = max(
        sum({_key(o): o.bytes for o in p.ops if isinstance(o, OnloadOp) and o.tier is back.tier}.values())
        for p in d.plan.programs
    )
    disk = back.tier is Tier.DISK and d.plan.cluster not in (None, "cpu")
    figure = "disk_memory" if disk else "host_memory"
    return d.header(figures={**d.plan.figures, figure: (most - 1) / GIB})


@memory_kind("hardware, or a figure of it, that there is not")
def _(d: Damage, _memory: MemoryPlan) -> Plan | None:
    if d.rng.random() < 0.5:
        return d.header(cluster="ghost")
    return d.header(figures={**d.plan.figures, d.rng.choice(("ghost", "memory")): -1.0})


def _key(of: StateSpec | OnloadOp | OffloadOp) -> tuple[str, State, int]:
    return of.model, of.state, of.staleness


@memory_kind("another peak")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return d.header(memory=replace(memory, peak=memory.peak + d.rng.choice((-1000, -1, 1, 1000))))


@memory_kind("the peak at another op")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return d.header(memory=replace(memory, peak_op=d.other([m.op for m in memory.ops], memory.peak_op)))


@memory_kind("a budget below the peak")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return d.header(memory=replace(memory, budget=d.rng.randrange(-1, memory.peak)))


@memory_kind("another reserve")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return d.header(memory=replace(memory, reserve=d.off(memory.reserve)))


@memory_kind("a workspace off by one")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _said(d, memory, lambda m: replace(m, workspace=d.off(m.workspace)))


@memory_kind("an op that takes more than the budget")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _said(d, memory, lambda m: _grown(m, memory.budget - memory.reserve - m.workspace - m.resident + 1))


@memory_kind("the fullest op with less")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    fullest = [m for m in memory.ops if m.workspace + m.resident + memory.reserve == memory.peak]
    ops = tuple(_grown(m, -1) if m in fullest else m for m in memory.ops)
    return d.header(memory=replace(memory, ops=ops)) if all(m.workspace for m in fullest) else None


@memory_kind("states of an op off by one")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _said(d, memory, lambda m: replace(m, resident=d.off(m.resident)))


@memory_kind("a category off by one")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    def off(said: OpMemory) -> OpMemory:
        name = d.one(said.categories)
        return replace(said, categories={c: d.off(b) if c == name else b for c, b in said.categories.items()})

    return _said(d, memory, off)


@memory_kind("nothing is said of an op")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    return _said(d, memory, lambda _: None)


@memory_kind("an op told of twice, or of other ranks")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    said = d.one(memory.ops)
    return d.header(memory=replace(memory, ops=(*memory.ops, replace(said, rank=said.rank + d.rng.randrange(2)))))


@memory_kind("the figures of an op beside other states")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    one = d.one(memory.ops)
    other = d.one(m for m in memory.ops if m.resident != one.resident)
    ops = tuple(replace(other, op=m.op, rank=m.rank) if m is one else m for m in memory.ops)
    return other and d.header(memory=replace(memory, ops=ops))


@memory_kind("seconds of an op that is not there")
def _(d: Damage, memory: MemoryPlan) -> Plan | None:
    which = d.rng.choice(("seconds", "hidden"))
    return d.header(memory=replace(memory, **{which: {**getattr(memory, which), "ghost": 1.0}}))


@memory_kind("no plan of memory")
def _(d: Damage, _memory: MemoryPlan) -> Plan | None:
    return d.header(memory=None)
