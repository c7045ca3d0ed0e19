"""What a plan declares is used, and says nothing that cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.methods import DATA_SOURCES, MODEL_SOURCES, Setting
from rldsl.compiler.ops import (
    ComputeOp,
    LoadOp,
    MetricOp,
    OutputOp,
    Reduction,
    ReshardOp,
    Scalar,
    SourceSpec,
    SyncWeightsOp,
    TrainOp,
    parts,
)
from rldsl.compiler.plan import ModelSpec
from rldsl.compiler.verify.facts import WITH_MODEL, Facts

_PRECISIONS = ("fp32", "bf16")
_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def header(facts: Facts) -> Iterator[str]:
    """Models, functions, fields, groups and sources, each by itself."""
    plan = facts.plan
    if not any(isinstance(op, LoadOp) for op in facts.ops):
        yield "the plan loads no prompts"
    yield from _unused(facts)
    for model in plan.models:
        yield from _model(model)
    for function in plan.functions:
        if (function.module is None) == (function.file is None):
            yield f"function `{function.name}` needs a module or a file, and not both"
        if function.per_row and function.reduces:
            yield f"function `{function.name}` is of one row and cannot sum over ranks"
    reductions: dict[str, Reduction] = {}
    for op in facts.ops:
        if isinstance(op, LoadOp):
            yield from _source(op.source, op.id)
        if isinstance(op, OutputOp) and (not op.name or set(op.name) & set("/\\\0")):
            yield f"`{op.id}` puts its rows out under a name that no file can have: {op.name!r}"
        if isinstance(op, MetricOp) and reductions.setdefault(op.name, op.reduction) is not op.reduction:
            yield f"`{op.id}` reduces `{op.name}` in another way than others of that name"


def _unused(facts: Facts) -> Iterator[str]:
    used_groups = {op.group for op in facts.ops}
    used_groups |= {g for op in facts.ops if isinstance(op, (ReshardOp, SyncWeightsOp)) for g in (op.source, op.target)}
    used_groups |= {p.group for p in facts.plan.phases}
    used_models = {op.model for op in parts(facts.ops) if isinstance(op, WITH_MODEL)}
    used_models |= {facts.holders[m] for m in used_models}
    called = {op.function for op in facts.ops if isinstance(op, ComputeOp)}
    called |= {op.loss for op in facts.ops if isinstance(op, TrainOp)}
    for what, declared, used in (
        ("group", facts.layouts, used_groups),
        ("model", facts.models, used_models),
        ("function", facts.functions, called),
        ("field", facts.specs, facts.writer),
    ):
        for name in declared:
            if name not in used:
                yield f"no op {'writes' if what == 'field' else 'uses'} the {what} `{name}`"


def _model(model: ModelSpec) -> Iterator[str]:
    if model.precision not in _PRECISIONS:
        yield f"model `{model.name}` has no precision that is known: `{model.precision}`"
    if not model.source:
        yield f"model `{model.name}` has no source"
    elif model.source in MODEL_SOURCES:
        settings = [s for s in MODEL_SOURCES[model.source].keywords if s.name != "precision"]
        yield from _arguments(settings, model.source_args, f"the source of model `{model.name}`")
    if model.lora_rank < 0 or (model.lora_rank > 0 and not (model.lora_alpha > 0 and model.lora_targets)):
        yield f"model `{model.name}` has adapters that cannot be: rank, alpha and targets go together"


def _source(source: SourceSpec, op: str) -> Iterator[str]:
    kind = DATA_SOURCES.get(source.kind)
    if kind is None:
        yield f"`{op}` reads a source of no known kind: `{source.kind}`"
    else:
        yield from _arguments((*kind.args, *kind.keywords), source.args, f"the source of `{op}`")


def _arguments(settings: list[Setting] | tuple[Setting, ...], given: dict[str, Scalar], where: str) -> Iterator[str]:
    """The arguments that are known have their types, and the required ones are there."""
    for setting in settings:
        value = given.get(setting.name)
        if value is None:
            if setting.required:
                yield f"{where} needs `{setting.name}`"
        elif not is_a(value, setting.type):
            yield f"{where} has no {setting.type} as `{setting.name}`: {value!r}"
        elif setting.least is not None and isinstance(value, (int, float)) and not value >= setting.least:
            yield f"{where} has a `{setting.name}` of {value}, below {setting.least:g}"


def is_a(value: Scalar, kind: str) -> bool:
    """Whether a value is of one of the four scalar types; a whole number will do for a float, no truth value will."""
    return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
