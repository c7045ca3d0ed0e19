"""What a statement's call takes: methods, functions, sources and their settings, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping

from rldsl.cli.ls import field_words, hyper_words, setting_words
from rldsl.compiler.ir import BUILT_IN, Method, ModelKind
from rldsl.compiler.methods import DATA_SOURCES, FIGURES, LORA, METHODS, MODEL_SOURCES, MethodSpec, Setting
from rldsl.compiler.signature import FieldParam, HyperParam
from rldsl.lsp.functions import Function
from rldsl.lsp.scan import Statement

OF_MODELS: Mapping[str, MethodSpec] = {m.value: METHODS[m] for m in Method if m not in BUILT_IN}
AXES = (Setting(name="dp", type="int", least=1),)
_BATCH = (Setting(name="batch", type="int", required=True, least=1, unit="prompts"),)

Value = Setting | HyperParam


def settings(statement: Statement, functions: Mapping[str, Function]) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """What may stand after `;` in the brackets of a statement's call, and what after `with`."""
    method = OF_MODELS.get(statement.method)
    function = functions.get(statement.function)
    hypers = function.signature.hypers if function and function.signature else ()
    match statement.keyword:
        case "model":
            source = MODEL_SOURCES.get(statement.source)
            return (source.keywords if source else ()), LORA
        case "input":
            source = DATA_SOURCES.get(statement.source)
            return (source.keywords if source else ()), _BATCH
        case "output":
            return (), METHODS[Method.OUTPUT].options
        case "deploy":
            return (FIGURES if statement.method == "cluster" else AXES), ()
        case _ if method and not function:
            return method.keywords, method.options
        case _:
            return hypers, (method.options if method else ())


def arguments(statement: Statement, functions: Mapping[str, Function]) -> tuple[FieldParam, ...]:
    """The fields that a statement's call takes; of a loss those of the model's method come first."""
    method = OF_MODELS.get(statement.method)
    function = functions.get(statement.function)
    inputs = function.signature.inputs if function and function.signature else ()
    if method is None:
        return METHODS[Method.METRIC].inputs if statement.keyword == "metric" else inputs
    return (*method.inputs, *inputs[2:]) if statement.function else method.inputs


def output_names(statement: Statement, functions: Mapping[str, Function]) -> list[str]:
    """How the fields that a statement writes are usually called."""
    if statement.method in OF_MODELS:
        return [name for name, _ in OF_MODELS[statement.method].outputs]
    function = functions.get(statement.function)
    names = function.signature.output_names if function and function.signature else ()
    return [n for n in names if n]


def value_words(value: Value) -> str:
    """`clip : float = 0.2`, with the values it may have."""
    if isinstance(value, HyperParam):
        return hyper_words(value)
    return " ".join((setting_words(value), *limits(value))).strip()


def limits(setting: Setting) -> list[str]:
    """`in (0, 1]`, or the choices."""
    if setting.choices:
        return [f"in {{{', '.join(setting.choices)}}}"]
    if all(end is None for end in (setting.least, setting.above, setting.below, setting.most)):
        return []
    low = (
        f"({setting.above:g}"
        if setting.above is not None
        else f"[{setting.least:g}"
        if setting.least is not None
        else "("
    )
    high = (
        f"{setting.below:g})"
        if setting.below is not None
        else f"{setting.most:g}]"
        if setting.most is not None
        else ")"
    )
    return [f"in {low}, {high}"]


def method_words(name: str) -> str:
    """`value(tokens : i64[sample, token], ...) -> values`."""
    spec = OF_MODELS[name]
    named = f"; {', '.join(map(value_words, spec.keywords))}" if spec.keywords else ""
    outputs = f" -> {', '.join(n for n, _ in spec.outputs)}" if spec.outputs else ""
    options = f" with {', '.join(map(value_words, spec.options))}" if spec.options else ""
    loss = " LOSS" if name == Method.TRAIN else ""
    return f"{name}{loss}({', '.join(map(field_words, spec.inputs))}{named}){outputs}{options}"


def methods_of(kind: ModelKind | None) -> list[str]:
    """Methods that a model of this kind has; all where the kind is unknown."""
    return [name for name, spec in OF_MODELS.items() if kind is None or kind in spec.kinds]
