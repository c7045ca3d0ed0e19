"""What could be changed of a plan that does not fit, and how long its step would then take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, SyncWeightsOp
from rldsl.compiler.plan import Group, Phase, Plan

_MORE_RANKS = (2, 4, 8, 16)
_WIDER = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`what` to write, and the seconds of a step with it."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Variant:
    """A plan that differs in one thing."""

    what: str
    plan: Plan
    ops: tuple[AnyOp, ...]
    pinned: Mapping[str, frozenset[str]]


def changes(
    plan: Plan,
    ops: Sequence[AnyOp],
    facts: Mapping[str, ModelFacts],
    hardware: Hardware,
    pinned: Mapping[str, frozenset[str]],
    budget: int,
) -> list[Change]:
    """Those single changes that make it fit, the fastest first; of one kind the smallest."""
    found: list[Change] = []
    for kind in _kinds(plan, tuple(ops), pinned):
        for variant in kind:
            planned = MemoryPlanner(variant.plan, variant.ops, facts, hardware, variant.pinned).fit(budget)
            if isinstance(planned, Planned):
                found.append(Change(what=variant.what, seconds=planned.step))
                break
    return sorted(found, key=lambda change: change.seconds)


def _kinds(plan: Plan, ops: tuple[AnyOp, ...], pinned: Mapping[str, frozenset[str]]) -> Iterator[Iterator[_Variant]]:
    if pinned:
        names = sorted({name for each in pinned.values() for name in each})
        yield iter([_Variant(f"leave {' and '.join(f'`{n}`' for n in names)} to the compiler", plan, ops, {})])
    yield _lower_precision(plan, ops, pinned)
    yield _wider_rollouts(plan, ops, pinned)
    yield _shorter(plan, ops, pinned)
    yield _more_ranks(plan, ops, pinned)


def _lower_precision(plan: Plan, ops: tuple[AnyOp, ...], pinned: Mapping[str, frozenset[str]]) -> Iterator[_Variant]:
    if any(m.precision == "fp32" for m in plan.models):
        models = tuple(replace(m, precision="bf16") for m in plan.models)
        yield _Variant('`precision = "bf16"` of the models', replace(plan, models=models), ops, pinned)


def _wider_rollouts(plan: Plan, ops: tuple[AnyOp, ...], pinned: Mapping[str, frozenset[str]]) -> Iterator[_Variant]:
    """Rollouts by an engine that spreads the weights over ranks."""
    world = plan.world_size or 1
    for phase in plan.phases:
        if phase.phase is not Phase.GENERATE or phase.engine != "hf":
            continue
        old = plan.group(phase.group)
        for tp in _WIDER:
            if old.size(world) % tp:
                continue
            group = Group(name=f"{old.name}-tp{tp}", ranks=old.ranks, tp=tp)
            moved = _changed(plan, ops, partial(_regrouped, model=phase.model, group=group.name))
            phases = tuple(replace(p, engine="vllm", group=group.name) if p == phase else p for p in plan.phases)
            variant = replace(moved[0], groups=(*plan.groups, group), phases=phases)
            yield _Variant(f"`{phase.model}.generate : vllm(tp = {tp})`", variant, moved[1], pinned)


def _regrouped(op: AnyOp, model: str, group: str) -> AnyOp:
    if isinstance(op, GenerateOp | ExtendOp) and op.model == model:
        return replace(op, group=group)
    return replace(op, target=group) if isinstance(op, SyncWeightsOp) and op.model == model else op


def _shorter(plan: Plan, ops: tuple[AnyOp, ...], pinned: Mapping[str, frozenset[str]]) -> Iterator[_Variant]:
    rollouts = [op for op in ops if isinstance(op, GenerateOp | ExtendOp)]
    for shift in (1, 2, 3):
        if all(op.max_new_tokens >> shift for op in rollouts):
            shorter = _changed(plan, ops, partial(_cut, shift=shift))
            most = max(op.max_new_tokens >> shift for op in rollouts)
            yield _Variant(f"`max_new_tokens = {most}`", *shorter, pinned)


def _cut(op: AnyOp, shift: int) -> AnyOp:
    if isinstance(op, GenerateOp | ExtendOp):
        return replace(op, max_new_tokens=op.max_new_tokens >> shift)
    return op


def _more_ranks(plan: Plan, ops: tuple[AnyOp, ...], pinned: Mapping[str, frozenset[str]]) -> Iterator[_Variant]:
    """Where all groups grow with the cluster."""
    if plan.world_size is None or plan.cluster is None or any(g.ranks for g in plan.groups):
        return
    for times in _MORE_RANKS:
        world = plan.world_size * times
        if plan.divides % world == 0:
            programs = tuple(replace(p, last=world) for p in plan.programs)
            larger = replace(plan, world_size=world, programs=programs)
            yield _Variant(f"`cluster {world} x {plan.cluster}`", larger, ops, pinned)


def _changed(plan: Plan, ops: tuple[AnyOp, ...], change: Callable[[AnyOp], AnyOp]) -> tuple[Plan, tuple[AnyOp, ...]]:
    programs = tuple(replace(p, ops=tuple(map(change, p.ops))) for p in plan.programs)
    return replace(plan, programs=programs), tuple(map(change, ops))
