"""Weights as trained reach the engine that generates with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Method, ModelKind, Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.passes.place_on_mesh import WORLD
from rldsl.compiler.plan import AnyOp, ExtendOp, GenerateOp, Reason, SaveOp, SyncKind, SyncWeightsOp, TrainOp

Rollout = GenerateOp | ExtendOp


@dataclass(frozen=True, kw_only=True)
class LowerWeights:
    """Before each rollout of a model that is trained, one transfer of its weights; at the end of the step, a save.

    One rank alone shares its memory between the phases (`local`); ranks that shard the weights gather them.
    Before: `rollout`, `update`.   After: `sync_weights actor`, `rollout`, `update`, `save actor`.
    """

    name: ClassVar[str] = "lower_weights"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with weight transfers and saves."""
        trained = [op.model for op in module.ops if isinstance(op, TrainOp)]
        changing = {trunk_of(m, module.graph) for m in trained}
        rollouts: dict[tuple[str, int], list[Rollout]] = {}
        for op in module.ops:
            if isinstance(op, Rollout):
                rollouts.setdefault((op.model, op.staleness), []).append(op)
        syncs = [_sync(same, module, trained=same[0].model in changing) for same in rollouts.values()]
        before = {same[0].id: s for same, s in zip(rollouts.values(), syncs, strict=True) if not s.staleness}
        after = {same[-1].id: s for same, s in zip(rollouts.values(), syncs, strict=True) if s.staleness}
        ops: list[AnyOp] = []
        for op in module.ops:
            ops += [each for each in (before.get(op.id), op, after.get(op.id)) if each is not None]
        policies = [m for m in dict.fromkeys(trained) if module.graph.model_of[m].kind is ModelKind.POLICY]
        ops += [_save(m, module, alone=len(policies) == 1) for m in policies]
        return replace(module, ops=tuple(ops))


def _sync(rollouts: list[Rollout], module: Module, *, trained: bool) -> SyncWeightsOp:
    """One transfer for all rollouts of an engine; skipped in steps in which all of them are."""
    op = rollouts[0]
    if op.staleness:
        kind = SyncKind.COPY if module.world_size == 1 else SyncKind.ALL_GATHER
        why = f"rollouts use weights {op.staleness} step old, so the transfer follows them"
    elif module.world_size == 1:
        kind, why = SyncKind.LOCAL, "one rank: training and generation share its memory"
    else:
        kind, why = (
            SyncKind.ALL_GATHER,
            "training shards the weights over the ranks, generation wants them whole",
        )
    if not trained:
        why += "; the model is never trained, so this happens once"
    guards = {r.guard for r in rollouts}
    return SyncWeightsOp(
        id=f"sync_weights:{op.model}" + (f":{op.staleness}" if op.staleness else ""),
        node=op.node,
        group=WORLD,
        # Weights a step old must be one step old in every step.
        guard=op.guard if len(guards) == 1 and not op.staleness else None,
        model=op.model,
        sync=kind,
        staleness=op.staleness,
        because=(Reason(by=LowerWeights.name, why=why),),
    )


def _save(model: str, module: Module, *, alone: bool) -> SaveOp:
    trainings = [n.call for n in module.graph.nodes if n.call.method is Method.TRAIN and n.call.model == model]
    every = max(int(number_of(c, "save_every")) for c in trainings)
    path = "checkpoint" if alone else f"checkpoint/{model}"
    return SaveOp(id=f"save:{model}", group=WORLD, model=model, path=path, every=every)
