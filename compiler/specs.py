"""From bound declarations to what a plan says of them: sources, models, functions."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Deploy, Input, Model, Module, SourceCall
from rldsl.compiler.methods import DATA_SOURCES, LORA, MODEL_SOURCES, SourceKind
from rldsl.compiler.neighbours import neighbours
from rldsl.compiler.ops import Scalar, SourceSpec
from rldsl.compiler.passes.bind_parameters import keyword_value
from rldsl.compiler.plan import FunctionSpec, ModelSpec
from rldsl.compiler.signature import Signature


def source_args(source: SourceCall, kind: SourceKind) -> dict[str, Scalar]:
    """The arguments of a bound source by name."""
    names = [s.name for s in kind.args]
    values = [*zip(names, source.args, strict=False), *((k.name, k.value) for k in source.keywords)]
    made = {}
    for name, value in values:
        assert isinstance(value, Literal), f"{name} is not bound"
        made[name] = value.value
    return made


def data_source(item: Input) -> SourceSpec:
    """Where an input's rows come from."""
    return SourceSpec(kind=item.source.kind, args=source_args(item.source, DATA_SOURCES[item.source.kind]))


def model_spec(model: Model, module: Module) -> ModelSpec:
    """A copy carries the source of the model it is a copy of, which need not be in the plan itself."""
    source = module.origins[model.name].source
    assert source is not None, f"`{model.name}` has no source, nor has what it copies"
    args = source_args(source, MODEL_SOURCES[source.kind])
    precision, path = str(args.pop("precision", "fp32")), args.pop("path", None)
    return ModelSpec(
        name=model.name,
        kind=model.kind,
        source=source.kind if path is None else str(path),
        source_args=args,
        copy_of=model.copy_of,
        shares=model.shares,
        base_of=model.base_of,
        trainable=not model.frozen,
        precision=precision,
        **_adapters(model),
    )


class _Adapters(TypedDict, total=False):
    lora_rank: int
    lora_alpha: float
    lora_targets: str


def _adapters(model: Model) -> _Adapters:
    """The options of LoRA, alpha as usual twice the rank."""
    if not model.options:
        return {}
    given = {s.name: keyword_value(model.options, s.name, s.default) for s in LORA}
    rank, alpha = given["lora_rank"], given["lora_alpha"]
    assert isinstance(rank, int) and isinstance(alpha, int | float | None), "bind_parameters has checked them"
    return {"lora_rank": rank, "lora_alpha": float(alpha or 2 * rank), "lora_targets": str(given["lora_targets"])}


def function_spec(signature: Signature) -> FunctionSpec:
    """Where a function is found at run time, and how it is called. Reads what a user's file imports."""
    modules = dict[str, str]()
    if signature.file is not None:
        assert signature.span is not None, "a user's function has been read from its file"
        modules = neighbours(Path(signature.span.file), signature.file)
    return FunctionSpec(
        name=signature.name,
        module=signature.module,
        file=signature.file,
        sha256=signature.sha256,
        modules=modules,
        per_row=signature.per_row,
        reduces=signature.reduces,
    )


def figures_of_deploy(deploy: Deploy) -> dict[str, float]:
    """The user's own of the hardware, in the order of their names."""
    made = {}
    for figure in sorted(deploy.figures, key=lambda f: f.name):
        assert isinstance(figure.value, Literal) and isinstance(figure.value.value, (int, float)), "bound and checked"
        made[figure.name] = float(figure.value.value)
    return made
