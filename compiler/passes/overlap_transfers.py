"""Weights on their way to an engine that generates travel beside the work of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import msgspec

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    Reason,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.plan import Group
from rldsl.compiler.ranks import meet

_OF_MODELS = (InferOp, GenerateOp, ExtendOp, TrainOp)
_LISTED = 3  # ops that a reason names


@dataclass(frozen=True, kw_only=True)
class OverlapTransfers:
    """Begin a transfer of weights in the background; wait for it right before the first op that it may not run beside.

    That is a training that changes these weights, or what uses the engine; else the end of the step. Only where an op
    of a model runs meanwhile, on some of its ranks; so it is mostly a transfer for rollouts of staleness 1, as one for
    others stands right before its rollout. What is never trained is never transferred, and among GPUs a transfer stays
    where it is: it may not meet other ranks while the rank itself does.
    Before: `rollout`, `sync_weights actor`, `infer old`, `infer ref`, `train update`
    After:  `rollout`, `sync_weights actor` in the background, `infer old`, `infer ref`, `wait for it`, `train update`
    """

    name: ClassVar[str] = "overlap_transfers"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with waits."""
        changing = {trunk_of(op.model, module.graph) for op in module.ops if isinstance(op, TrainOp)}
        found = {
            op.id: stretch
            for place, op in enumerate(module.ops)
            if isinstance(op, SyncWeightsOp)
            and op.sync is not SyncKind.LOCAL
            and trunk_of(op.model, module.graph) in changing
            and not (op.collective and _on_gpus(module))
            and (stretch := _stretch(place, op, module)) is not None
        }
        return replace(module, ops=_placed(module.ops, found)) if found else module


def _on_gpus(module: Module) -> bool:
    """Whether two threads of a rank may not be in collectives at once, as it is known where the plan will run.

    Kernels of two communicators of NCCL may each hold what the other waits for.
    """
    deploy = module.graph.deploy
    return deploy is not None and deploy.cluster not in (None, "cpu")


class _Stretch(NamedTuple):
    """A transfer runs until the op at `end`, beside ops of models, `beside` first."""

    end: int
    beside: tuple[str, ...]


def _stretch(place: int, op: SyncWeightsOp, module: Module) -> _Stretch | None:
    """How far it can run; None where no op of a model would run beside it."""
    groups = {g.name: g for g in module.groups}
    end = next((i for i in range(place + 1, len(module.ops)) if _meets(module.ops[i], op, module)), len(module.ops))
    beside = tuple(each.id for each in module.ops[place + 1 : end] if _together(each, op, groups))
    return _Stretch(end, beside) if beside else None


def _meets(other: AnyOp, op: SyncWeightsOp, module: Module) -> bool:
    """Whether an op changes the weights that are transferred, or uses the engine that gets them."""
    if isinstance(other, TrainOp):
        return trunk_of(other.model, module.graph) == trunk_of(op.model, module.graph)
    if isinstance(other, (GenerateOp, ExtendOp, SyncWeightsOp)):
        return (other.model, other.staleness) == (op.model, op.staleness)
    return False


def _together(other: AnyOp, op: SyncWeightsOp, groups: Mapping[str, Group]) -> bool:
    """Whether an op of a model runs whenever the transfer does, on ranks that have both."""
    often = other.guard in (None, op.guard)
    return isinstance(other, _OF_MODELS) and often and meet(groups[other.group], groups[op.group])


def _placed(ops: Sequence[AnyOp], found: Mapping[str, _Stretch]) -> tuple[AnyOp, ...]:
    made: list[AnyOp] = []
    waits: dict[int, list[WaitOp]] = {}
    for place, op in enumerate(ops):
        made += waits.pop(place, ())
        if isinstance(op, SyncWeightsOp) and op.id in found:
            end, beside = found[op.id]
            until = ops[end] if end < len(ops) else None
            waits.setdefault(end, []).append(_wait(op, until))
            made.append(_begun(op, beside, until))
        else:
            made.append(op)
    return (*made, *waits.pop(len(ops), ()))


def _begun(op: SyncWeightsOp, beside: Sequence[str], until: AnyOp | None) -> SyncWeightsOp:
    names = ", ".join(f"`{name}`" for name in beside[:_LISTED]) + (" and more" if len(beside) > _LISTED else "")
    last = "the end of the step" if until is None else f"`{until.id}`"
    reason = Reason(by=OverlapTransfers.name, why=f"travels beside {names}: need not be there before {last}")
    return msgspec.structs.replace(op, background=True, because=(*op.because, reason))


def _wait(op: SyncWeightsOp, until: AnyOp | None) -> WaitOp:
    if until is None:
        why = "the next step's rollout wants the weights"
    elif isinstance(until, TrainOp):
        why = f"`{until.id}` changes the weights that are on their way"
    else:
        why = f"`{until.id}` uses the engine that gets the weights"
    return WaitOp(
        id=f"wait:{op.id}",
        node=op.node,
        group=op.group,
        guard=op.guard,
        begun=op.id,
        holds=(),
        because=(Reason(by=OverlapTransfers.name, why=why),),
        by=OverlapTransfers.name,
    )
