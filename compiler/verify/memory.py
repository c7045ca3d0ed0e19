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
    GenerateOp,
    InferOp,
    OffloadOp,
    OnloadOp,
    SaveOp,
    State,
    SyncWeightsOp,
    TrainOp,
    parts,
)
from rldsl.compiler.plan import MemoryPlan, Program, StateSpec
from rldsl.compiler.verify.facts import Facts, ranks_of

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
    problems = [*_declared(plan, facts), *_figures(plan, facts)]
    yield from problems
    if problems:
        return
    highest = 0
    for program in facts.plan.programs:
        walk = _Walk(plan, facts, program)
        yield from walk.problems()
        highest = max(highest, walk.highest)
    if not plan.peak - 1 <= highest <= plan.peak + 1:
        yield f"the plan says that its peak is {plan.peak:,} bytes, and it is {highest:,}"


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
    yield from (f"nothing is said of {_named(key)}" for key in sorted(_needed(facts) - states.keys()))
    for op in facts.ops:
        if isinstance(op, OnloadOp | OffloadOp):
            held = states.get(_key(op))
            if held is None:
                yield f"`{op.id}` moves {_named(_key(op))}, which the plan does not know"
            elif (held.bytes, held.group) != (op.bytes, op.group):
                yield f"`{op.id}` moves {op.bytes} bytes on `{op.group}`, of {held.bytes} on `{held.group}`"
            elif op.guard is not None:
                yield f"`{op.id}` moves a state in some steps only"


def _needed(facts: Facts) -> set[Key]:
    """The weights that forwards and trainings run on."""
    ops = (op for op in parts(facts.ops) if isinstance(op, InferOp | TrainOp))
    return {(facts.holders[op.model], State.WEIGHTS, 0) for op in ops}


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
    wanting = {(op.id, p.first) for p in facts.plan.programs for op in p.ops if isinstance(op, _WITH_STATES)}
    for name, rank in sorted(wanting - seen):
        yield f"nothing is said of the memory of `{name}` on rank {rank}"
    if plan.budget < 1 or plan.reserve < 0:
        yield f"a budget of {plan.budget} bytes, of which {plan.reserve} are set aside"


_WITH_STATES = (InferOp, TrainOp, GenerateOp, ExtendOp, SyncWeightsOp, SaveOp, OnloadOp, OffloadOp)


class _Walk:
    """A class of ranks, op by op."""

    def __init__(self, plan: MemoryPlan, facts: Facts, program: Program) -> None:
        self.plan, self.facts, self.program = plan, facts, program
        self.states = {_key(s): s for s in plan.states if facts.member(program, s.group)}
        self.said = {said.op: said for said in plan.ops if said.rank == program.first}
        self.here = {key for key, state in self.states.items() if state.resident}
        # Of these the tier below has what the device has, or had.
        self.below = {key for key, state in self.states.items() if not (state.dirty and state.resident)}
        self.highest = 0

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
        renewed = self.renewed(op)
        for key in self.used(op):
            if key in self.states and key not in self.here:
                yield f"`{op.id}` uses {_named(key)}, which is not on the device"
        self.here |= renewed & self.states.keys()
        self.below -= renewed | (self.used(op) if isinstance(op, TrainOp) else set())
        yield from self.room(op)
        if isinstance(op, OffloadOp):
            yield from self.offload(op)

    def onload(self, op: OnloadOp) -> Iterator[str]:
        """What is away, and was kept."""
        key = _key(op)
        if key in self.here:
            yield f"`{op.id}` brings back {_named(key)}, which is on the device"
        if key not in self.below:
            yield f"`{op.id}` brings back {_named(key)}, of which the tier below has an older version"
        self.here.add(key)

    def offload(self, op: OffloadOp) -> Iterator[str]:
        """What is there."""
        key = _key(op)
        if key not in self.here:
            yield f"`{op.id}` takes away {_named(key)}, which is not on the device"
        self.here.discard(key)
        if op.keep:
            self.below.add(key)

    def room(self, op: AnyOp) -> Iterator[str]:
        """The states on the device, what the op needs beside them, and what is set aside."""
        said = self.said.get(op.id)
        if said is None:
            return
        held = sum(self.states[key].bytes for key in self.here if key in self.states)
        if held != said.resident:
            yield f"`{op.id}` runs beside {held:,} bytes of states, and the plan says {said.resident:,}"
        total = held + said.workspace + self.plan.reserve
        self.highest = max(self.highest, total)
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
