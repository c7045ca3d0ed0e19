"""`rldsl ls`: what an algorithm can use without writing any Python."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rldsl.cli import shipped
from rldsl.compiler.cost.find_facts import SHIPPED, shipped_models
from rldsl.compiler.cost.hardware import GB, GIB, HARDWARE, TERA, UNITS, Hardware, figures_of
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Method
from rldsl.compiler.methods import (
    CLUSTERS,
    DATA_SOURCES,
    ENGINES,
    METHODS,
    MODEL_SOURCES,
    MethodSpec,
    Setting,
    SourceKind,
)
from rldsl.compiler.ops import Reduction, Scalar, Tier
from rldsl.compiler.signature import FieldParam, HyperParam, Signature, library_names, library_signature

_HELD = "\xa0"  # a blank at which textwrap does not break


KEYS = (
    "algorithms",
    "losses",
    "functions",
    "methods",
    "statements",
    "model_sources",
    "data_sources",
    "engines",
    "clusters",
    "models",
)
"""What can be listed, in the order of the sections."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("what", nargs="?", choices=KEYS, metavar="WHAT", help=f"one of {', '.join(KEYS)}; default: all")


def execute(args: argparse.Namespace) -> int:
    """Print the sections, or one; with --json one object, a list of what there is by the key of each section."""
    width = min(shutil.get_terminal_size().columns, 120)
    found = [each for each in sections() if args.what in (None, each.key)]
    if args.json:
        print(json.dumps({each.key: [item.value for item in each.items] for each in found}, indent=2))
        return 0
    for index, each in enumerate(found):
        print("\n" * bool(index) + each.title)
        for item in each.items:
            print(_folded(item.words, width))
    return 0


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that there is, for people and for programs."""

    words: str
    value: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Things of one kind; `key` is stable."""

    key: str
    title: str
    items: tuple[Item, ...]


def sections() -> Iterator[Section]:
    """Everything there is."""
    signatures = [s for s in map(library_signature, library_names()) if s is not None]
    yield _pairs("algorithms", "algorithms, for `rldsl new --from`", "about", shipped.algorithms())
    yield Section(key="losses", title="losses", items=tuple(_signature(s) for s in signatures if s.is_loss))
    functions = tuple(_signature(s) for s in signatures if not s.is_loss)
    yield Section(key="functions", title="functions of samples", items=functions)
    methods = tuple(_method(m, spec) for m, spec in METHODS.items() if spec.kinds)
    yield Section(key="methods", title="methods of models", items=methods)
    yield Section(key="statements", title="what is logged and put out", items=(_metric(), _output()))
    yield Section(key="model_sources", title="sources of models", items=_sources(MODEL_SOURCES))
    yield Section(key="data_sources", title="sources of data", items=_sources(DATA_SOURCES))
    yield Section(
        key="engines",
        title="engines",
        items=tuple(
            Item(words=f"{phase}: {', '.join(names)}", value={"phase": phase, "engines": names})
            for phase, names in ENGINES.items()
        ),
    )
    clusters = tuple(_cluster(name, HARDWARE[name]) for name in CLUSTERS)
    yield Section(key="clusters", title="clusters: figures of one device, rates one way", items=clusters)
    models = tuple(_model(name, facts) for name, facts in shipped_models().items())
    yield Section(key="models", title="models whose size is known without their config.json", items=models)


def _pairs(key: str, title: str, what: str, pairs: Mapping[str, str]) -> Section:
    items = (Item(words=f"{name}: {text}", value={"name": name, what: text}) for name, text in pairs.items())
    return Section(key=key, title=title, items=tuple(items))


_TIERS = {Tier.HOST: "host memory", Tier.DISK: "a disk"}


def _cluster(name: str, hardware: Hardware) -> Item:
    """Sizes and rates in the units in which a deployment gives them."""
    below = (f"{t.rate / GB:.4g} to {_TIERS[t.tier]} of {t.bytes / GIB:.4g} GiB" for t in hardware.tiers)
    held = "memory unknown" if hardware.memory is None else f"{hardware.memory / GIB:.4g} GiB"
    words = (
        f"{name}: {CLUSTERS[name]}; {held}, {hardware.bandwidth / GB:,.6g} GB/s, "
        f"{hardware.bf16 / TERA:,.6g} TFLOP/s in bf16, {hardware.fp32 / TERA:.4g} in fp32, "
        f"{hardware.link / GB:.4g} GB/s to the others of {hardware.per_node}, {hardware.network / GB:.4g} beyond, "
        f"{', '.join(below)}"
    )
    figures = {name: None if value is None else value / UNITS[name] for name, value in figures_of(hardware).items()}
    return Item(words=words, value={"name": name, "hardware": CLUSTERS[name], **figures})


def _model(name: str, facts: ModelFacts) -> Item:
    active = facts.active_parameters
    part = f", {active:,} of them for a token" if facts.moe_layers else ""
    sources = SHIPPED[name]
    kv = facts.kv_bytes_per_token()
    return Item(
        words=f"{name}: {facts.parameters:,} parameters{part}, {kv:,} bytes of keys and values a token in bf16; "
        f"{', '.join(sources)}",
        value={
            "name": name,
            "parameters": facts.parameters,
            "active_parameters": active,
            "kv_bytes_per_token": kv,
            "sources": list(sources),
        },
    )


def _signature(signature: Signature) -> Item:
    value = {
        "name": signature.name,
        "inputs": list(map(_field_value, signature.inputs)),
        "settings": [_value(h.name, h.type, h.default, required=h.required) for h in signature.hypers],
        "outputs": list(map(str, signature.outputs)),
    }
    return Item(words=signature_words(signature), value=value)


def _method(method: Method, spec: MethodSpec) -> Item:
    words = (
        f"{method}({', '.join(map(field_words, spec.inputs))}{_named(spec.keywords)})"
        + (f" -> {', '.join(name for name, _ in spec.outputs)}" if spec.outputs else "")
        + (f" with {', '.join(map(setting_words, spec.options))}" if spec.options else "")
    )
    value = {
        "name": method,
        "models": spec.kinds,
        "inputs": list(map(_field_value, spec.inputs)),
        "settings": list(map(_setting_value, spec.keywords)),
        "outputs": [{"name": name, "type": str(kind)} for name, kind in spec.outputs],
        "options": list(map(_setting_value, spec.options)),
    }
    return Item(words=words, value=value)


def _metric() -> Item:
    inputs = METHODS[Method.METRIC].inputs
    reductions = [str(r) for r in Reduction]
    words = f"metric NAME = {'|'.join(reductions)}({', '.join(map(field_words, inputs))})"
    value = {"name": "metric", "reductions": reductions, "inputs": list(map(_field_value, inputs))}
    return Item(words=words, value=value)


def _output() -> Item:
    options = METHODS[Method.OUTPUT].options
    words = f"output NAME = FIELD, ... with {', '.join(map(setting_words, options))}"
    return Item(words=words, value={"name": "output", "options": list(map(_setting_value, options))})


def _sources(kinds: Mapping[str, SourceKind]) -> tuple[Item, ...]:
    return tuple(
        Item(
            words=source_words(name, kind),
            value={
                "name": name,
                "args": list(map(_setting_value, kind.args)),
                "settings": list(map(_setting_value, kind.keywords)),
                "open_ended": kind.open_ended,
            },
        )
        for name, kind in kinds.items()
    )


def _field_value(param: FieldParam) -> dict[str, Any]:
    return {"name": param.name, "types": list(map(str, param.types)), "optional": param.optional}


def _setting_value(setting: Setting) -> dict[str, Any]:
    return _value(setting.name, setting.type, setting.default, required=setting.required)


def _value(name: str, kind: str, default: Scalar, *, required: bool) -> dict[str, Any]:
    """A default of null where there is none: such a setting must be given, or leaving it out means something."""
    return {"name": name, "type": kind, "default": default, "required": required}


def _folded(line: str, width: int) -> str:
    """`line` over as many lines as it needs, broken only between parameters and between types."""
    held = re.sub(r" (?=[:=|])|(?<=[:=]) |(?<=,) (?=token\])", _HELD, line)
    held = re.sub(r'"[^"]*"', lambda text: text[0].replace(" ", _HELD), held)
    lines = wrap(
        held,
        width,
        initial_indent="  ",
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_HELD, " ")


def signature_words(signature: Signature) -> str:
    """`group_advantage(score : f32[sample]; group : int) -> f32[sample]`."""
    inputs = ", ".join(map(field_words, signature.inputs))
    hypers = ", ".join(map(hyper_words, signature.hypers))
    outputs = "loss" if signature.is_loss else ", ".join(map(str, signature.outputs))
    return f"{signature.name}({inputs}{f'; {hypers}' if hypers else ''}) -> {outputs}"


def field_words(param: FieldParam) -> str:
    """`ref_logp? : f32[sample, token]`."""
    return f"{param.name}{'?' if param.optional else ''} : {' | '.join(map(str, param.types))}"


def hyper_words(param: HyperParam) -> str:
    """`clip : float = 0.2`; `clip_high? : float` where leaving it out means none."""
    return _value_words(param.name, param.type, param.default, required=param.required)


def setting_words(setting: Setting) -> str:
    """`n : int = 1`."""
    return _value_words(setting.name, setting.type, setting.default, required=setting.required)


def _value_words(name: str, kind: str, default: Scalar, *, required: bool) -> str:
    if required:
        return f"{name} : {kind}"
    return f"{name}? : {kind}" if default is None else f"{name} : {kind} = {json.dumps(default)}"


def source_words(name: str, kind: SourceKind) -> str:
    """`jsonl(path : str; shuffle : bool = true, ...)`."""
    more = ", ..." if kind.keywords else "; ..."
    args = ", ".join(map(setting_words, kind.args))
    return f"{name}({args}{_named(kind.keywords)}{more if kind.open_ended else ''})"


def _named(settings: Iterable[Setting]) -> str:
    text = ", ".join(map(setting_words, settings))
    return f"; {text}" if text else ""
