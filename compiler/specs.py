"""From bound declarations to what a plan says of them: sources, models, functions."""

from __future__ import annotations

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Input, Model, Module, SourceCall
from rldsl.compiler.methods import DATA_SOURCES, MODEL_SOURCES, SourceKind
from rldsl.compiler.plan import FunctionSpec, ModelSpec, Scalar, SourceSpec
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
        trainable=not model.frozen,
        precision=precision,
    )


def function_spec(signature: Signature) -> FunctionSpec:
    """Where a function is found at run time, and how it is called."""
    return FunctionSpec(
        name=signature.name,
        module=signature.module,
        file=signature.file,
        sha256=signature.sha256,
        per_row=signature.per_row,
        reduces=signature.reduces,
    )
