"""Weights as trained reach the engine that generates with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Method, ModelKind, Module
from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, InferOp, Reason, SaveOp, SyncKind, SyncWeightsOp, TrainOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.plan import Group
from rldsl.compiler.ranks import inside, joined

Rollout = GenerateOp | ExtendOp


@dataclass(frozen=True, kw_only=True)
class LowerWeights:
    """Before each rollout of a model that is trained, one transfer of its weights; at the end of the step, a save.

    One rank alone shares its memory between the phases (`local`); ranks that shard the weights gather them; to ranks
    that hold no part of them they are sent.
    Before: `rollout`, `update`.   After: `sync_weights actor`, `rollout`, `update`, `save actor`.
    """

    name: ClassVar[str] = "lower_weights"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with weight transfers and saves; `groups` with those of both ends of a transfer together."""
        trained = [op.model for op in module.ops if isinstance(op, TrainOp)]
        changing = {trunk_of(m, module.graph) for m in trained}
        rollouts: dict[tuple[str, int], list[Rollout]] = {}
        for op in module.ops:
            if isinstance(op, Rollout):
                rollouts.setdefault((op.model, op.staleness), []).append(op)
        lies = _holders(module)
        groups = {g.name: g for g in module.groups}
        syncs = [_sync(same, module, groups, lies, trained=same[0].model in changing) for same in rollouts.values()]
        before = {same[0].id: s for same, s in zip(rollouts.values(), syncs, strict=True) if not s.staleness}
        after = {same[-1].id: s for same, s in zip(rollouts.values(), syncs, strict=True) if s.staleness}
        ops: list[AnyOp] = []
        for op in module.ops:
            ops += [each for each in (before.get(op.id), op, after.get(op.id)) if each is not None]
        policies = [m for m in dict.fromkeys(trained) if module.graph.model_of[m].kind is ModelKind.POLICY]
        ops += [_save(m, module, lies, alone=len(policies) == 1) for m in policies]
        return replace(module, ops=tuple(ops), groups=tuple(groups.values()))


def _holders(module: Module) -> dict[str, str]:
    """The group over which each trunk lies: that of its trainings and passes, else of its rollouts."""
    found: dict[str, str] = {}
    for kinds in ((GenerateOp, ExtendOp), (InferOp, TrainOp)):
        found |= {trunk_of(op.model, module.graph): op.group for op in module.ops if isinstance(op, kinds)}
    return found


def _sync(
    rollouts: list[Rollout], module: Module, groups: dict[str, Group], lies: dict[str, str], *, trained: bool
) -> SyncWeightsOp:
    """One transfer for all rollouts of an engine; skipped in steps in which all of them are."""
    op = rollouts[0]
    source, target = groups[lies[trunk_of(op.model, module.graph)]], groups[op.group]
    both = joined(source, target, module.world_size)
    groups.setdefault(both.name, both)
    kind, why = _kind(source, target, module.world_size)
    if op.staleness:
        kind = SyncKind.COPY if kind is SyncKind.LOCAL else kind
        why = f"rollouts use weights {op.staleness} step old, so the transfer follows them"
    if not trained:
        why += "; the model is never trained, so this happens once"
    guards = {r.guard for r in rollouts}
    return SyncWeightsOp(
        id=f"sync_weights:{op.model}" + (f":{op.staleness}" if op.staleness else ""),
        node=op.node,
        group=both.name,
        # Weights a step old must be one step old in every step.
        guard=op.guard if len(guards) == 1 and not op.staleness else None,
        model=op.model,
        sync=kind,
        source=source.name,
        target=target.name,
        staleness=op.staleness,
        because=(Reason(by=LowerWeights.name, why=why),),
    )


def _kind(source: Group, target: Group, world: int | None) -> tuple[SyncKind, str]:
    if not inside(target, source, world):
        return SyncKind.BROADCAST, "the weights lie on other ranks than those that generate"
    if world is not None and source.size(world) == 1:
        return SyncKind.LOCAL, "one rank: training and generation share its memory"
    return SyncKind.ALL_GATHER, "training shards the weights over the ranks, generation wants them whole"


def _save(model: str, module: Module, lies: dict[str, str], *, alone: bool) -> SaveOp:
    trainings = [n.call for n in module.graph.nodes if n.call.method is Method.TRAIN and n.call.model == model]
    every = max(int(number_of(c, "save_every")) for c in trainings)
    path = "checkpoint" if alone else f"checkpoint/{model}"
    group = lies[trunk_of(model, module.graph)]
    return SaveOp(id=f"save:{model}", group=group, model=model, path=path, every=every)
