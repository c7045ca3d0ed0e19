"""What could be changed of a plan that does not fit, alone or together, and how long its step would then take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice

from msgspec.structs import replace

from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, SyncWeightsOp
from rldsl.compiler.plan import Group, Phase, Plan

_MORE_RANKS = (2, 4, 8, 16)
_WIDER = (2, 4, 8)
_TOGETHER = 3
# Of one kind of change there are at most so many, the mildest first.
_STRENGTHS = 4
# So many are planned, to know their seconds: a tenth of a second each.
_TIMED = 6
# Of more ranks than that FSDP makes no use: they have less than a row of a matrix each.
_MOST_RANKS = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to write, all of it, and the seconds of a step with it."""

    what: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """The `changes` that make a plan fit, the fastest first, no more of them together than needed.

    `tried` are the kinds of change that there are. `ranks`: of the same hardware so many are needed where nothing else
    changes; None if not even thousands are enough, for then `whole` is what a rank lacks all the same. Both are None
    where groups have ranks of their own.
    """

    changes: tuple[Change, ...]
    tried: tuple[str, ...]
    ranks: int | None
    whole: Shortage | None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A plan with so many changes."""

    plan: Plan
    ops: tuple[AnyOp, ...]
    pinned: Mapping[str, frozenset[str]]
    what: tuple[str, ...] = ()

    def changed(
        self,
        what: str,
        plan: Plan,
        ops: tuple[AnyOp, ...] | None = None,
        pinned: Mapping[str, frozenset[str]] | None = None,
    ) -> _Draft:
        """With one more."""
        pins = self.pinned if pinned is None else pinned
        return _Draft(plan, self.ops if ops is None else ops, pins, (*self.what, what))


_Kind = Callable[[_Draft], Iterator[_Draft]]
"""The drafts with one change more, the mildest first."""


def remedies(
    plan: Plan,
    ops: Sequence[AnyOp],
    facts: Mapping[str, ModelFacts],
    hardware: Hardware,
    pinned: Mapping[str, frozenset[str]],
    budget: int,
) -> Remedies:
    """What makes `plan` fit: single changes, else two together, else three; of one kind the mildest that do."""
    search = _Search(facts, hardware, budget)
    start = _Draft(plan, tuple(ops), pinned)
    kinds = {name: kind for name, kind in _KINDS.items() if next(kind(start), None) is not None}
    if hardware.name == "cpu":
        kinds.pop(_ENGINE, None)  # which has none for processors
    found: list[_Draft] = []
    for count in range(1, _TOGETHER + 1):
        chosen = (search.mildest(start, each) for each in combinations(kinds.values(), count))
        found = list(islice((draft for draft in chosen if draft is not None), _TIMED))
        if found:
            break
    changes = sorted((c for draft in found if (c := search.timed(draft)) is not None), key=lambda c: c.seconds)
    ranks, whole = search.ranks(start)
    return Remedies(changes=tuple(changes), tried=tuple(kinds), ranks=ranks, whole=whole)


@dataclass(frozen=True, slots=True)
class _Search:
    facts: Mapping[str, ModelFacts]
    hardware: Hardware
    budget: int

    def planner(self, draft: _Draft, *, smallest: bool) -> MemoryPlanner:
        return MemoryPlanner(draft.plan, draft.ops, self.facts, self.hardware, draft.pinned, smallest=smallest)

    def fits(self, draft: _Draft) -> bool:
        return self.planner(draft, smallest=True).fits(self.budget)

    def mildest(self, start: _Draft, kinds: Sequence[_Kind]) -> _Draft | None:
        """One change of each kind, none of which could be milder; None if the strongest are not enough."""
        strengths = [_STRENGTHS] * len(kinds)
        best = _applied(start, kinds, strengths)
        if best is None or not self.fits(best):
            return None
        for index in range(len(kinds)):
            for strength in range(_STRENGTHS):
                strengths[index] = strength
                draft = _applied(start, kinds, strengths)
                if draft is not None and self.fits(draft):
                    best = draft
                    break
        return best

    def timed(self, draft: _Draft) -> Change | None:
        """With the seconds of a step."""
        planned = self.planner(draft, smallest=False).fit(self.budget)
        if isinstance(planned, Shortage) or planned.missing:
            return None
        return Change(what=draft.what, seconds=planned.step)

    def ranks(self, start: _Draft) -> tuple[int | None, Shortage | None]:
        """How many ranks are enough, in multiples of those that there are; else what is lacking on the most."""
        world = start.plan.world_size
        if world is None or not _scales(start.plan):
            return None, None
        low, high = 1, 2
        while not self.fits(_on(start, world * high)):
            if world * high >= _MOST_RANKS:
                return None, self.planner(_on(start, world * high), smallest=True).shortage(self.budget)
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(_on(start, world * middle)) else (middle, high)
        return world * high, None


def _applied(start: _Draft, kinds: Sequence[_Kind], strengths: Sequence[int]) -> _Draft | None:
    """With one change of each kind, as strong as asked for, or else as there is."""
    draft = start
    for kind, strength in zip(kinds, strengths, strict=True):
        options = list(kind(draft))
        if not options:
            return None
        draft = options[min(strength, len(options) - 1)]
    return draft


def _unpinned(draft: _Draft) -> Iterator[_Draft]:
    if draft.pinned:
        names = sorted({name for each in draft.pinned.values() for name in each})
        what = f"leave {' and '.join(f'`{n}`' for n in names)} to the compiler"
        yield draft.changed(what, draft.plan, pinned={})


def _lower_precision(draft: _Draft) -> Iterator[_Draft]:
    if any(m.precision == "fp32" for m in draft.plan.models):
        models = tuple(replace(m, precision="bf16") for m in draft.plan.models)
        yield draft.changed('`precision = "bf16"` of the models', replace(draft.plan, models=models))


def _more_ranks(draft: _Draft) -> Iterator[_Draft]:
    """Where all groups grow with the cluster."""
    if draft.plan.world_size is not None and _scales(draft.plan):
        for times in _MORE_RANKS:
            world = draft.plan.world_size * times
            if draft.plan.divides % world == 0:
                yield _on(draft, world)


def _scales(plan: Plan) -> bool:
    return plan.cluster is not None and all(g.ranks in ((), ((0, plan.world_size),)) for g in plan.groups)


def _on(draft: _Draft, world: int) -> _Draft:
    """The same on another number of ranks."""
    programs = tuple(replace(p, last=world) for p in draft.plan.programs)
    groups = tuple(replace(g, ranks=((0, world),)) if g.ranks else g for g in draft.plan.groups)
    larger = replace(draft.plan, world_size=world, programs=programs, groups=groups)
    return draft.changed(f"`cluster {world} x {draft.plan.cluster}`", larger)


def _wider_rollouts(draft: _Draft) -> Iterator[_Draft]:
    """Rollouts by an engine that spreads the weights over ranks."""
    plan = draft.plan
    world = plan.world_size or 1
    for phase in plan.phases:
        if phase.phase is not Phase.GENERATE or phase.engine != "hf":
            continue
        old = plan.group(phase.group)
        for tp in _WIDER:
            if old.size(world) % tp:
                continue
            group = Group(name=f"{old.name}-tp{tp}", ranks=old.ranks, tp=tp)
            moved = _changed(plan, draft.ops, partial(_regrouped, model=phase.model, group=group.name))
            phases = tuple(replace(p, engine="vllm", group=group.name) if p == phase else p for p in plan.phases)
            variant = replace(moved[0], groups=(*plan.groups, group), phases=phases)
            yield draft.changed(f"`{phase.model}.generate : vllm(tp = {tp})`", variant, moved[1])


def _regrouped(op: AnyOp, model: str, group: str) -> AnyOp:
    if isinstance(op, GenerateOp | ExtendOp) and op.model == model:
        return replace(op, group=group)
    return replace(op, target=group) if isinstance(op, SyncWeightsOp) and op.model == model else op


def _shorter(draft: _Draft) -> Iterator[_Draft]:
    rollouts = [op for op in draft.ops if isinstance(op, GenerateOp | ExtendOp)]
    for shift in (1, 2, 3):
        if rollouts and all(op.max_new_tokens >> shift for op in rollouts):
            plan, ops = _changed(draft.plan, draft.ops, partial(_cut, shift=shift))
            most = max(op.max_new_tokens >> shift for op in rollouts)
            yield draft.changed(f"`max_new_tokens = {most}`", plan, ops)


def _cut(op: AnyOp, shift: int) -> AnyOp:
    if isinstance(op, GenerateOp | ExtendOp):
        return replace(op, max_new_tokens=op.max_new_tokens >> shift)
    return op


def _changed(plan: Plan, ops: tuple[AnyOp, ...], change: Callable[[AnyOp], AnyOp]) -> tuple[Plan, tuple[AnyOp, ...]]:
    programs = tuple(replace(p, ops=tuple(map(change, p.ops))) for p in plan.programs)
    return replace(plan, programs=programs), tuple(map(change, ops))


_ENGINE = "rollouts by an engine that spreads the weights"
# In this order: an engine can spread over ranks that have been added.
_KINDS: dict[str, _Kind] = {
    "options left to the compiler": _unpinned,
    "a lower precision": _lower_precision,
    "more ranks": _more_ranks,
    _ENGINE: _wider_rollouts,
    "shorter responses": _shorter,
}
