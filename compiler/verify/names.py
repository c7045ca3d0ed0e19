"""Every name that a plan uses is there, once; the other proofs look names up and rely on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rldsl.compiler.ir import ModelKind
from rldsl.compiler.ops import AnyOp, ComputeOp, FreeOp, OffloadOp, OnloadOp, ReshardOp, SyncWeightsOp, TrainOp, parts
from rldsl.compiler.plan import ModelSpec, Plan
from rldsl.compiler.verify.facts import WITH_MODEL, type_of


def names(plan: Plan) -> Iterator[str]:
    """What is named and not there, or there twice, or no name of a type."""
    yield from _twice("model", (m.name for m in plan.models))
    yield from _twice("field", (f.name for f in plan.fields))
    yield from _twice("function", (f.name for f in plan.functions))
    yield from _twice("group", (g.name for g in plan.groups))
    for spec in plan.fields:
        try:
            type_of(spec.type)
        except ValueError as error:
            yield f"field `{spec.name}`: {error}"
    for model in plan.models:
        yield from _model(model, plan)
    yield from _phases(plan)
    known = _Known(plan)
    for program in plan.programs:
        for op in program.ops:
            yield from known.of(op)


def _twice(what: str, given: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in given:
        if name in seen:
            yield f"there are two {what}s `{name}`"
        seen.add(name)


def _model(model: ModelSpec, plan: Plan) -> Iterator[str]:
    if model.kind not in set(ModelKind):
        yield f"model `{model.name}` is of no known kind: `{model.kind}`"
    if model.base_of is not None:
        yield from _base(model, next((m for m in plan.models if m.name == model.base_of), None))
    if model.shares is None:
        return
    trunk = next((m for m in plan.models if m.name == model.shares), None)
    if trunk is None:
        yield f"model `{model.name}` shares the trunk of `{model.shares}`, which is not there"
    elif trunk.shares or trunk.base_of or trunk.kind != ModelKind.POLICY or model.kind != ModelKind.VALUE:
        yield f"model `{model.name}` cannot share the trunk of `{trunk.name}`: a value's head sits on a policy's trunk"


def _base(model: ModelSpec, other: ModelSpec | None) -> Iterator[str]:
    """Both began alike, and the one that it is the base of trains adapters alone."""
    if other is None:
        yield f"model `{model.name}` is the base of `{model.base_of}`, which is not there"
        return
    beneath = f"model `{model.name}` cannot be the base of `{other.name}`"
    if other.shares or other.base_of or model.shares or {model.kind, other.kind} != {ModelKind.POLICY}:
        yield f"{beneath}: a policy is that of another, which has layers of its own"
    elif not other.lora_rank:
        yield f"{beneath}: that has no adapters"
    elif _beginning(model) != _beginning(other):
        yield f"{beneath}: their sources or precisions differ"


def _beginning(model: ModelSpec) -> tuple[object, ...]:
    return model.source, model.source_args, model.precision


def _phases(plan: Plan) -> Iterator[str]:
    yield from _twice("phase", (f"{p.model}.{p.phase}" for p in plan.phases))
    models, groups = {m.name for m in plan.models}, {g.name for g in plan.groups}
    for phase in plan.phases:
        if phase.model not in models or phase.group not in groups:
            yield f"the phase `{phase.model}.{phase.phase}` is of a model or on a group that is not there"


class _Known:
    def __init__(self, plan: Plan) -> None:
        self.groups = {g.name for g in plan.groups}
        self.models = {m.name for m in plan.models}
        self.functions = {f.name for f in plan.functions}
        self.fields = {f.name for f in plan.fields}

    def of(self, op: AnyOp) -> Iterator[str]:
        """Names in one op that are not there."""
        if op.group not in self.groups:
            yield f"`{op.id}` names a group `{op.group}` that is not there"
        if isinstance(op, (ReshardOp, SyncWeightsOp)):
            for group in (op.source, op.target):
                if group not in self.groups:
                    yield f"`{op.id}` names a group `{group}` that is not there"
        for part in parts((op,)):
            if isinstance(part, (*WITH_MODEL, OnloadOp, OffloadOp)) and part.model not in self.models:
                yield f"`{op.id}` names a model `{part.model}` that is not there"
        function = op.function if isinstance(op, ComputeOp) else op.loss if isinstance(op, TrainOp) else None
        if function is not None and function not in self.functions:
            yield f"`{op.id}` names a function `{function}` that is not there"
        freed = op.fields if isinstance(op, FreeOp) else ()
        for name in (*op.reads, *op.writes, *freed):
            if name not in self.fields:
                yield f"`{op.id}` names a field `{name}` that is not there"
