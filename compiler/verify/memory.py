"""What a plan says of its memory is so: states are there when they are used, and no rank exceeds its budget.

The plan's own figures are added up anew, in the order in which a rank runs its ops, over two steps: the second begins
as the first ended. What an op needs beside its states is taken from the plan; only a compiler that knows the models
can judge that.
"""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferOp,
    MetricOp,
    OffloadOp,
    OnloadOp,
    OutputOp,
    SaveOp,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
    parts,
)
from rldsl.compiler.plan import MemoryPlan, Program, StateSpec
from rldsl.compiler.verify.facts import WITH_MODEL, Facts, ranks_of

Key = tuple[str, State, int]


def memory(facts: Facts) -> Iterator[str]:
    """The states, their moves, and the peak of each class of ranks."""
    plan = facts.plan.memory
    if plan is None:
        yield from (
            f"`{op.id}` moves a state, and the plan has no memory"
            for op in facts.ops
            if isinstance(op, OnloadOp | OffloadOp)
        )
        return
    problems = [*_declared(plan, facts), *_complete(plan, facts), *_figures(plan, facts)]
    yield from problems
    if problems:
        return
    taken: dict[str, int] = {}
    for program in facts.plan.programs:
        walk = _Walk(plan, facts, program)
        yield from walk.problems()
        taken |= {op: max(size, taken.get(op, 0)) for op, size in walk.taken.items()}
    highest = max(taken.values(), default=0)
    if plan.peak != highest:
        yield f"the plan says that its peak is {plan.peak:,} bytes, and it is {highest:,}"
    elif taken.get(plan.peak_op) != highest:
        yield f"the plan says that its peak is in `{plan.peak_op}`, which takes less"


def _declared(plan: MemoryPlan, facts: Facts) -> Iterator[str]:
    """Each state once, of a model and a group that are there; moves as the state they move."""
    states: dict[Key, StateSpec] = {}
    for state in plan.states:
        if state.model not in facts.models or state.group not in facts.layouts:
            yield f"a state is of a model `{state.model}` or a group `{state.group}` that is not there"
        if _key(state) in states:
            yield f"{_named(_key(state))} is there twice"
        trained = _trained(state.model, facts)
        if state.dirty is not trained:
            does = "changes" if trained else "does not change"
            yield f"training {does} {_named(_key(state))}, and the plan says otherwise"
        if state.state is not State.ENGINE and facts.holders.get(state.model, state.model) != state.model:
            yield f"{_named(_key(state))} is not its own: it has those of `{facts.holders[state.model]}`"
        if state.bytes < 0:
            yield f"{_named(_key(state))} has {state.bytes} bytes"
        states[_key(state)] = state
    for op in facts.ops:
        if isinstance(op, OnloadOp | OffloadOp):
            held = states.get(_key(op))
            if held is None:
                yield f"`{op.id}` moves {_named(_key(op))}, which the plan does not know"
            elif (held.bytes, held.group) != (op.bytes, op.group):
                yield f"`{op.id}` moves {op.bytes} bytes on `{op.group}`, of {held.bytes} on `{held.group}`"
            elif held.tier is not op.tier:
                yield f"`{op.id}` moves {_named(_key(op))} by way of `{op.tier}`, and it is kept on `{held.tier}`"
            elif op.guard is not None:
                yield f"`{op.id}` moves a state in some steps only"


def _complete(plan: MemoryPlan, facts: Facts) -> Iterator[str]:
    """The states are those that there must be: weights of models that have some, moments where trained, engines' own.

    An engine has weights of its own where they are not handed over in place, or it is not ours: that alone is not
    known of a plan from elsewhere.
    """
    states = {_key(s) for s in plan.states}
    of = {facts.holders[op.model] for op in parts(facts.ops) if isinstance(op, WITH_MODEL)}
    trained = {model for model in of if _trained(model, facts)}
    handed = {(op.model, op.staleness): op.sync for op in facts.ops if isinstance(op, SyncWeightsOp)}
    engines = {(model, State.ENGINE, age) for model, age in handed}
    needed = {(m, State.WEIGHTS, 0) for m in of} | {(m, State.OPTIMIZER, 0) for m in trained}
    needed |= {(m, State.ENGINE, age) for (m, age), sync in handed.items() if sync is not SyncKind.LOCAL}
    for key in sorted(needed - states, key=str):
        yield f"nothing is said of {_named(key)}"
    for key in sorted(states - needed - engines, key=str):
        yield f"{_named(key)} is nothing that an op has"


def _figures(plan: MemoryPlan, facts: Facts) -> Iterator[str]:
    """What is said of ops is of ops that are there, and can be."""
    known = {(op.id, program.first) for program in facts.plan.programs for op in program.ops}
    seen: set[tuple[str, int]] = set()
    for said in plan.ops:
        key = (said.op, said.rank)
        if key not in known:
            yield f"the memory of `{said.op}` is told of rank {said.rank}, which does not run it"
        if key in seen:
            yield f"the memory of `{said.op}` is told twice of rank {said.rank}"
        seen.add(key)
        if said.workspace < 0 or sum(said.categories.values()) != said.workspace + said.resident:
            yield f"the parts of what `{said.op}` takes are not what it takes"
    wanting = {(op.id, p.first) for p in facts.plan.programs for op in p.ops if not isinstance(op, _SMALL)}
    for name, rank in sorted(wanting - seen):
        yield f"nothing is said of the memory of `{name}` on rank {rank}"
    ops = {op.id for op in facts.ops}
    for name in sorted({*plan.seconds, *plan.hidden} - ops):
        yield f"seconds are told of `{name}`, which is no op"
    if plan.budget < 1 or plan.reserve < 0:
        yield f"a budget of {plan.budget} bytes, of which {plan.reserve} are set aside"


_SMALL = (FreeOp, WaitOp, MetricOp, OutputOp)
"""Ops that only bring others' data to an end: they need no more than these."""


class _Walk:
    """A class of ranks, op by op."""

    def __init__(self, plan: MemoryPlan, facts: Facts, program: Program) -> None:
        self.plan, self.facts, self.program = plan, facts, program
        self.states = {_key(s): s for s in plan.states if facts.member(program, s.group)}
        self.said = {said.op: said for said in plan.ops if said.rank == program.first}
        self.here = {key for key, state in self.states.items() if state.resident}
        # What is on its way in the background, by the op that began it: it takes its bytes, and nothing may touch it.
        self.coming: dict[str, Key] = {}
        # Of these the tier below has what the device has, or had.
        self.below = {key for key, state in self.states.items() if not (state.dirty and state.resident)}
        # Written since it last changed, and not brought back yet: by which op.
        self.unread: dict[Key, str] = {}
        self.taken: dict[str, int] = {}

    def problems(self) -> Iterator[str]:
        """What is wrong, with the ranks."""
        where = f" ({ranks_of(self.program)})"
        begin = set(self.here)
        for op in (*self.program.ops, *self.program.ops):
            for problem in self.step(op):
                yield problem + where
        for key in sorted(begin ^ self.here, key=str):
            yield f"{_named(key)} is {'away' if key in begin else 'there'} when the step ends, not as it began{where}"

    def step(self, op: AnyOp) -> Iterator[str]:
        """One op: what it needs is there, what it moves is where it says, and there is room."""
        if isinstance(op, OnloadOp):
            yield from self.onload(op)
        if isinstance(op, WaitOp) and op.begun in self.coming:
            self.here.add(self.coming.pop(op.begun))
        renewed = self.renewed(op)
        for key in self.used(op) | renewed:
            if key in self.coming.values():
                yield f"`{op.id}` uses {_named(key)}, which is on its way to the device"
            elif key in self.states and key not in self.here | renewed:
                yield f"`{op.id}` uses {_named(key)}, which is not on the device"
        for key in renewed & self.unread.keys():
            yield f"`{self.unread.pop(key)}` writes {_named(key)} for nothing: it is made anew"
        self.here |= renewed & self.states.keys()
        self.below -= renewed | (self.used(op) if isinstance(op, TrainOp) else set())
        yield from self.room(op)
        if isinstance(op, OffloadOp):
            yield from self.offload(op)

    def onload(self, op: OnloadOp) -> Iterator[str]:
        """What is away, and was kept."""
        key = _key(op)
        if key in self.here or key in self.coming.values():
            where = "on the device" if key in self.here else "on its way to the device"
            yield f"`{op.id}` brings back {_named(key)}, which is {where}"
        if key not in self.below:
            yield f"`{op.id}` brings back {_named(key)}, of which the tier below has an older version"
        self.unread.pop(key, None)
        if op.background:
            self.coming[op.id] = key
        else:
            self.here.add(key)

    def offload(self, op: OffloadOp) -> Iterator[str]:
        """What is there."""
        key = _key(op)
        if key not in self.here:
            where = "on its way to" if key in self.coming.values() else "not on"
            yield f"`{op.id}` takes away {_named(key)}, which is {where} the device"
        self.here.discard(key)
        if op.keep:
            if key in self.below:
                yield f"`{op.id}` writes {_named(key)} for nothing: the tier below has it"
            self.below.add(key)
            self.unread[key] = op.id

    def room(self, op: AnyOp) -> Iterator[str]:
        """The states on the device, what the op needs beside them, and what is set aside."""
        said = self.said.get(op.id)
        if said is None:
            return
        there = self.here.union(self.coming.values())
        held = sum(self.states[key].bytes for key in there if key in self.states)
        if held != said.resident:
            yield f"`{op.id}` runs beside {held:,} bytes of states, and the plan says {said.resident:,}"
        total = held + said.workspace + self.plan.reserve
        self.taken[op.id] = max(total, self.taken.get(op.id, 0))
        if total > self.plan.budget:
            yield f"`{op.id}` takes {total:,} bytes of a budget of {self.plan.budget:,}"

    def used(self, op: AnyOp) -> set[Key]:
        """The states that an op works with as they are."""
        holders = self.facts.holders
        match op:
            case InferOp():
                return {(holders[p.model], State.WEIGHTS, 0) for p in op.parts}
            case TrainOp():
                return {(holders[op.model], State.WEIGHTS, 0), (holders[op.model], State.OPTIMIZER, 0)}
            case SaveOp():
                return {(holders[op.model], State.WEIGHTS, 0)}
            case SyncWeightsOp():
                return {(holders[op.model], State.WEIGHTS, 0)} if self.trained(op.model) else set()
            case GenerateOp() | ExtendOp():
                engine = (op.model, State.ENGINE, op.staleness)
                return {engine} if engine in self.states else {(holders[op.model], State.WEIGHTS, 0)}
        return set()

    def renewed(self, op: AnyOp) -> set[Key]:
        """The states that an op makes anew."""
        if isinstance(op, SyncWeightsOp) and self.trained(op.model):
            return {(op.model, State.ENGINE, op.staleness)}
        return set()

    def trained(self, model: str) -> bool:
        """Whether some op changes the weights."""
        return _trained(model, self.facts)


def _trained(model: str, facts: Facts) -> bool:
    own = facts.trunks.get(model, model)
    return any(isinstance(op, TrainOp) and facts.trunks[op.model] == own for op in facts.ops)


def _key(of: StateSpec | OnloadOp | OffloadOp) -> Key:
    return of.model, of.state, of.staleness


def _named(key: Key) -> str:
    model, state, staleness = key
    return f"the {state} of `{model}`" + (f" of staleness {staleness}" if staleness else "")
