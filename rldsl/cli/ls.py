"""`rldsl ls`: what an algorithm can use without writing any Python."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from textwrap import wrap

from rldsl.cli import shipped
from rldsl.compiler.methods import (
    CLUSTERS,
    DATA_SOURCES,
    ENGINES,
    METHODS,
    MODEL_SOURCES,
    Setting,
    SourceKind,
)
from rldsl.compiler.plan import Scalar
from rldsl.compiler.signature import FieldParam, HyperParam, Signature, library_names, library_signature

_HELD = "\xa0"  # a blank at which textwrap does not break


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing."""


def execute(args: argparse.Namespace) -> int:
    """Print the sections; with --json one object."""
    width = min(shutil.get_terminal_size().columns, 120)
    found = {title: list(lines) for title, lines in sections()}
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for index, (title, lines) in enumerate(found.items()):
        print("\n" * bool(index) + title)
        for line in lines:
            print(_folded(line, width))
    return 0


def sections() -> Iterator[tuple[str, Iterable[str]]]:
    """(title, lines) of everything there is."""
    signatures = [s for s in map(library_signature, library_names()) if s is not None]
    yield "algorithms, for `rldsl new --from`", [f"{name}: {about}" for name, about in shipped.algorithms().items()]
    yield "losses", [signature_words(s) for s in signatures if s.is_loss]
    yield "functions of samples", [signature_words(s) for s in signatures if not s.is_loss]
    yield (
        "methods of models",
        [
            f"{method}({', '.join(map(field_words, spec.inputs))}{_named(spec.keywords)})"
            + (f" -> {', '.join(name for name, _ in spec.outputs)}" if spec.outputs else "")
            + (f" with {', '.join(map(setting_words, spec.options))}" if spec.options else "")
            for method, spec in METHODS.items()
        ],
    )
    yield "sources of models", [source_words(name, kind) for name, kind in MODEL_SOURCES.items()]
    yield "sources of data", [source_words(name, kind) for name, kind in DATA_SOURCES.items()]
    yield "engines", [f"{phase}: {', '.join(names)}" for phase, names in ENGINES.items()]
    yield "clusters", [f"{name}: {what}" for name, what in CLUSTERS.items()]


def _folded(line: str, width: int) -> str:
    """`line` over as many lines as it needs, broken only between parameters."""
    held = re.sub(r" (?=[:=|])|(?<=[:=|]) |(?<=,) (?=token\])", _HELD, line)
    return "\n".join(wrap(held, width, initial_indent="  ", subsequent_indent=" " * 6)).replace(_HELD, " ")


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
