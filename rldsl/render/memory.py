"""What a plan says of its memory, in words: whether it fits, what is on the device when, what leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rldsl.compiler.ops import AnyOp, LoadOp, OffloadOp, OnloadOp, ReshardOp, SaveOp, State, SyncWeightsOp, Tier, WaitOp
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, Program, StateSpec
from rldsl.compiler.ranks import contains
from rldsl.render.nodes import node_ids
from rldsl.render.ranks import ranks_of
from rldsl.render.scopes import general
from rldsl.render.words import begun_words, duration, memory_words, state_words

CATEGORIES = (
    "weights",
    "optimizer",
    "gradients",
    "kv_cache",
    "activations",
    "logits",
    "communication",
    "fields",
    "reserve",
)
"""What memory is taken by, from the bottom of a stack to its top."""

_PASS = "plan_memory"


@dataclass(frozen=True, slots=True)
class Level:
    """How full a rank is while it runs an op: bytes by category in the order of `CATEGORIES`, what is set aside too."""

    op: AnyOp
    label: str
    at: str
    categories: dict[str, int]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.categories.values())


def fit_words(plan: Plan) -> str:
    """`fits, peak 71.3 of 75.1 GiB on every rank at actor_update`; why it is not known; empty without a budget."""
    memory = plan.memory
    if memory is None:
        return f"memory not planned: {why}" if (why := unplanned(plan)) else ""
    return f"fits, peak {of_budget(memory)} on {_peak_ranks(plan, memory)} at {_peak_label(plan, memory)}"


def unplanned(plan: Plan) -> str:
    """Why a plan for a budget has no plan of its memory; empty where it has, or there is no budget."""
    return next((d.why for d in plan.dropped if d.by == _PASS), "")


def of_budget(memory: MemoryPlan) -> str:
    """`71.3 of 75.1 GiB`."""
    peak, budget = memory_words(memory.peak), memory_words(memory.budget)
    unit = budget.rpartition(" ")[2]
    return f"{peak.removesuffix(f' {unit}')} of {budget}"


def _peak_ranks(plan: Plan, memory: MemoryPlan) -> str:
    """All classes of ranks that reach the peak."""
    most = max(m.workspace + m.resident for m in memory.ops)
    full = {m.rank for m in memory.ops if m.workspace + m.resident == most}
    return " and ".join(ranks_of(p, plan.world_size) for p in plan.programs if p.first in full)


def _peak_label(plan: Plan, memory: MemoryPlan) -> str:
    return next((label_of(op) for op in plan.ops() if op.id == memory.peak_op), memory.peak_op)


def moved_words(plan: Plan, memory: MemoryPlan) -> str:
    """`3.4 s a step between tiers, 1.2 s of it beside other work; no other choice takes less (search)`; that nothing
    moves. Where the host's memory has not room for all: `19.1 GiB a rank in host memory, 29.9 GiB on disk`.
    """
    if not any(isinstance(op, OnloadOp | OffloadOp) for op in plan.ops()):
        return "all states stay on the device"
    hidden = sum(memory.hidden.values())
    if not memory.moved_seconds + hidden:
        return "no time between tiers: what leaves the device is dropped and made anew"
    proved = "no other choice takes less" if not memory.gap else f"at most {memory.gap:.1%} more than the best"
    beside = f", {duration(hidden)} of it beside other work; " if hidden else ", "
    moved = duration(memory.moved_seconds + hidden)
    return f"{moved} a step between tiers{beside}{proved} ({memory.solver}){_kept(plan)}"


def _kept(plan: Plan) -> str:
    """What lies on two tiers, on the ranks where that is most; empty where one is enough."""
    most: dict[Tier, int] = {}
    for program in plan.programs:
        copies = {(op.model, op.state, op.staleness): op for op in program.ops if isinstance(op, OnloadOp)}
        for tier in Tier:
            size = sum(op.bytes for op in copies.values() if op.tier is tier)
            most[tier] = max(size, most.get(tier, 0))
    host, disk = most.get(Tier.HOST, 0), most.get(Tier.DISK, 0)
    if not host or not disk:
        return ""
    return f"; {memory_words(host)} a rank in host memory, {memory_words(disk)} on disk"


def lasting(plan: Plan) -> dict[str, float]:
    """The predicted seconds of each op by itself: of a move in the background those that others hide as well."""
    if plan.memory is None:
        return {}
    left = {w.begun: plan.memory.seconds.get(w.id, 0.0) for w in waits_of(plan)}
    return plan.memory.seconds | {op: s + left.get(op, 0.0) for op, s in plan.memory.hidden.items()}


def waits_of(plan: Plan) -> Iterator[WaitOp]:
    """All waits of a plan, once."""
    return (op for op in plan.ops() if isinstance(op, WaitOp))


def unplanned_words(plan: Plan, memory: MemoryPlan) -> str:
    """What the peak would be, and where, with all states on the device and ops as the engine would run them."""
    label = next((label_of(op) for op in plan.ops() if op.id == memory.unplanned_op), memory.unplanned_op)
    over = memory.unplanned - memory.budget
    verdict = f", {memory_words(over)} over the budget" if over > 0 else ""
    without = "with all states always on the device, ops as the engine runs them"
    return f"{without}: {memory_words(memory.unplanned)} at {label}{verdict}"


def label_of(op: AnyOp) -> str:
    """The node, or what is done to which model: `actor_update`, `<- optimizer state of actor`, `save actor`."""
    match op:
        case OnloadOp() | OffloadOp():
            name = f"{'<-' if isinstance(op, OnloadOp) else '->'} {state_words(op)}"
        case SyncWeightsOp():
            name = f"{op.model} to its sampler"
        case SaveOp():
            name = f"save {op.model}"
        case ReshardOp():
            name = "move rows"
        case LoadOp():
            name = f"load {', '.join(map(general, op.columns))}"
        case WaitOp():
            name = f"wait for {general(begun_words(op))}"
        case _:
            name = ", ".join(map(general, node_ids(op))) or general(op.id)
    return name


def levels_of(plan: Plan, program: Program) -> list[Level]:
    """What a class of ranks holds in each op of which the plan tells, in order. Nothing without a memory plan."""
    if plan.memory is None:
        return []
    said = {m.op: m for m in plan.memory.ops if m.rank == program.first}
    reserve = plan.memory.reserve
    return [
        Level(op, label_of(op), said[op.id].at, _parts(said[op.id], reserve)) for op in program.ops if op.id in said
    ]


def _parts(said: OpMemory, reserve: int) -> dict[str, int]:
    all_of = {**said.categories, "reserve": said.categories.get("reserve", 0) + reserve}
    order = dict.fromkeys((*CATEGORIES, *all_of))
    return {category: all_of[category] for category in order if all_of.get(category)}


def states_on(plan: Plan, program: Program) -> list[StateSpec]:
    """The states that a class of ranks holds."""
    if plan.memory is None or plan.world_size is None:
        return []
    world = plan.world_size
    mine = ((program.first, program.last or world),)
    return [s for s in plan.memory.states if contains(plan.group(s.group).spans(world), mine)]


def presence(program: Program, state: StateSpec) -> str:
    """When a state is on the device: `always`, `from ref to ref`, `from rollout (made anew) to rollout`.

    What comes in the background takes its bytes earlier: `in ref, on its way from old`. What comes back at all says
    from where: `in ref; else on disk`.
    """
    key = (state.model, state.state, state.staleness)
    spans, begin, early, kept = [], "the step's begin" if state.resident else "", "", ""
    for number, op in enumerate(program.ops):
        if isinstance(op, OnloadOp | OffloadOp) and (op.model, op.state, op.staleness) == key:
            beside = neighbour(program, number)
            if isinstance(op, OnloadOp):
                begin, early = beside, f", on its way from {_next(program, number)}" if op.background else ""
                kept = "; else on disk" if op.tier is Tier.DISK else "; else in host memory"
            else:
                spans.append((f"from {begin} to {beside}" if begin != beside else f"in {beside}") + early)
                begin = early = ""
        elif not begin and _renews(op, state):
            begin = label_of(op)
    if begin and not spans:
        return "always" if state.resident else f"from {begin}{early}"
    return "; ".join([*spans, *([f"from {begin} to the step's end{early}"] if begin else [])]) + kept


def _renews(op: AnyOp, state: StateSpec) -> bool:
    engine = state.state is State.ENGINE
    return engine and isinstance(op, SyncWeightsOp) and (op.model, op.staleness) == (state.model, state.staleness)


def neighbour(program: Program, number: int) -> str:
    """The op for which the move at `number` is there: the next one that is no move, or for what leaves the last.

    For what comes in the background it is the one behind its wait.
    """
    op = program.ops[number]
    if isinstance(op, OffloadOp):
        return _first(reversed(program.ops[:number]))
    waits = (i for i, o in enumerate(program.ops) if isinstance(o, WaitOp) and o.begun == op.id)
    return _next(program, next(waits, number))


def _next(program: Program, number: int) -> str:
    return _first(program.ops[number + 1 :])


def _first(ops: Iterable[AnyOp]) -> str:
    return next((label_of(op) for op in ops if not isinstance(op, OnloadOp | OffloadOp | WaitOp)), "the step's end")
