"""What a hover says of a name, in Markdown: the facts that the compiler knows, else the statement that defines it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rldsl.cli.ls import field_words, signature_words, source_words
from rldsl.compiler.expr import format_expr, format_scalar
from rldsl.compiler.ir import FieldInfo, Graph, Method, Module, Node, Param, Range
from rldsl.compiler.methods import DATA_SOURCES, MODEL_SOURCES
from rldsl.lsp.calls import OF_MODELS, arguments, method_words, settings, value_words
from rldsl.lsp.functions import Function
from rldsl.lsp.scan import Kind, Occurrence
from rldsl.lsp.text import Place
from rldsl.lsp.view import Symbol, View
from rldsl.types import SAMPLE

_BLANKS = re.compile(r'("(?:\\.|[^"\\\n])*")|\s+')


def hover(view: View, offset: int) -> tuple[str, Place] | None:
    """The Markdown for the name at `offset`, and where that name stands; None where there is nothing to say."""
    occurrence = view.source.scan.at(offset)
    words = describe(view, occurrence) if occurrence else None
    return (words, view.source.place(occurrence)) if words and occurrence else None


def describe(view: View, occurrence: Occurrence) -> str | None:
    """Markdown about a name."""
    symbol = view.source.symbol(occurrence)
    match symbol.kind:
        case Kind.FIELD:
            return _field(view, symbol) or _definition(view, occurrence)
        case Kind.NODE:
            return _node(view, symbol) or _definition(view, occurrence)
        case Kind.PARAM | Kind.MODEL | Kind.BLOCK | Kind.ALGORITHM:
            more = _more(view, symbol)
            shown = _definition(view, occurrence)
            return shown and "\n\n".join((shown, *more))
        case Kind.FUNCTION:
            function = view.functions.get(symbol.name)
            return function_words(function) if function else None
        case _:
            return _part(view, occurrence)


def function_words(function: Function) -> str:
    """Signature and first line of the docstring."""
    shown = (
        signature_words(function.signature) if function.signature else f"{function.name}: its signature is unreadable"
    )
    origin = "" if function.shipped else f"From `{function.place.text.path.name}`."
    return "\n\n".join(filter(None, (_code(shown), function.summary, origin)))


def _part(view: View, occurrence: Occurrence) -> str | None:
    """A part of a call: a method, a setting, a function's parameter, a source, a file."""
    name, statement = occurrence.name, occurrence.statement
    match occurrence.kind:
        case Kind.METHOD if name in OF_MODELS:
            return _code(method_words(name))
        case Kind.SETTING:
            inside, options = settings(statement, view.functions)
            return next((_code(value_words(v)) for v in (*inside, *options) if v.name == name), None)
        case Kind.ARGUMENT:
            return next((_code(field_words(p)) for p in arguments(statement, view.functions) if p.name == name), None)
        case Kind.SOURCE:
            kind = (MODEL_SOURCES if statement.keyword == "model" else DATA_SOURCES).get(name)
            return _code(source_words(name, kind)) if kind else None
        case _:
            return None


def _definition(view: View, occurrence: Occurrence) -> str | None:
    """The statement that defines the name, as a block of code."""
    statement = _written(view, view.source.symbol(occurrence))
    return _code(statement) if statement else None


def _written(view: View, symbol: Symbol) -> str:
    """The statement that defines a name, as the user wrote it; empty where none does."""
    for source in view.sources:
        for found in source.occurrences(symbol):
            if found.defines:
                return _one_line(source.text.text[found.statement.start : found.statement.end])
    return ""


def _flat_names(view: View, symbol: Symbol) -> list[str]:
    """Under which names the compiler knows a field: a block's stand behind its name, also those that it shares."""
    if symbol.scope:
        return [f"{symbol.scope}.{symbol.name}"]
    blocks = [b for s in view.sources for b in s.blocks if not s.keeps(b, symbol)]
    return [symbol.name, *(f"{b}.{part}{symbol.name}" for b in blocks for part in ("", "kept."))]


def field_info(view: View, symbol: Symbol) -> FieldInfo | None:
    """What the type checker knows of a field."""
    known = view.module.fields if view.module else {}
    return next((known[n] for n in _flat_names(view, symbol) if n in known), None)


def _field(view: View, symbol: Symbol) -> str | None:
    info = field_info(view, symbol)
    if info is None or view.module is None:
        return None
    names = set(_flat_names(view, symbol))
    nodes = [n for n in view.module.graph.nodes if n.call.method is not Method.COLLECT]
    writers = [n.id for n in nodes if names.intersection(n.outputs)]
    readers = [n.id for n in nodes if any(a.name in names for a in n.call.args)]
    lines = [
        _rows(info),
        f"Written by {_ticked(writers)}." if writers else f"`{_written(view, symbol)}`",
        f"Read by {_ticked(readers)}." if readers else "Nothing reads it.",
    ]
    return "\n\n".join((_code(f"field {symbol.name} : {info.type}"), "  \n".join(lines)))


def _rows(info: FieldInfo) -> str:
    """`One row a sample of `rollout`, 8 a prompt; a value for each token.`"""
    unit = info.type.unit
    lineage = f" of `{info.lineage}`" if info.lineage else ""
    count = f", {info.per_prompt} a prompt" if unit == SAMPLE and info.per_prompt > 1 else ""
    ragged = "; a value for each token" if info.type.ragged else ""
    whose = f", of the prompts of `{info.prompts}`" if info.prompts else ""
    return f"One row a {unit}{lineage}{count}{whose}{ragged}."


def _node(view: View, symbol: Symbol) -> str | None:
    node = _find_node(view.module, symbol) if view.module else None
    if node is None:
        return None
    keyword = node.call.method if node.call.method in (Method.METRIC, Method.OUTPUT) else "node"
    typed = f" : {', '.join(filter(None, (node.role, node.type)))}" if keyword == "node" else ""
    reads = [(a.written or a.name) + ("?" if a.optional else "") for a in node.call.args]
    lines = [
        f"Reads {_ticked(reads)}.",
        f"Writes {_ticked(o.removeprefix(f'{symbol.scope}.') for o in node.outputs)}." if node.outputs else "",
    ]
    if node.call.method is Method.TRAIN:
        lines.append(f"Trains `{node.call.model}`.")
    if node.when:
        lines.append(f"Runs when `{format_expr(node.when)}`.")
    function = view.functions.get(node.call.function or "")
    lines.append(f"`{function.name}`: {function.summary}" if function else "")
    return "\n\n".join((_code(f"{keyword} {symbol.name}{typed}"), "  \n".join(filter(None, lines))))


def _find_node(module: Module, symbol: Symbol) -> Node | None:
    return module.graph.node_of.get(f"{symbol.scope}.{symbol.name}" if symbol.scope else symbol.name)


def _more(view: View, symbol: Symbol) -> list[str]:
    """What the statement of a parameter or a model does not say itself."""
    if view.module is None:
        return []
    graph = view.module.graph
    if symbol.kind is Kind.PARAM:
        return [_param(p) for p in graph.params if p.name == symbol.name]
    if symbol.kind is not Kind.MODEL or symbol.name not in graph.model_of:
        return []
    uses = [n for n in graph.nodes if n.call.model == symbol.name]
    origin = _origin(graph, symbol.name)
    trained = [n.id for n in uses if n.call.method is Method.TRAIN]
    used = [n.id for n in uses if n.call.method is not Method.TRAIN]
    lines = [
        f"Its weights begin as those of `{_written(view, Symbol(Kind.MODEL, origin))}`." if origin else "",
        f"Trained by {_ticked(trained)}." if trained else "Never trained.",
        f"Used by {_ticked(used)}." if used else "",
    ]
    return ["  \n".join(filter(None, lines))]


def _origin(graph: Graph, name: str) -> str | None:
    """The model whose weights a copy begins with, or whose trunk it shares; None for one with a source of its own."""
    seen = [name]
    while (model := graph.model_of.get(seen[-1])) and (other := model.copy_of or model.shares) and other not in seen:
        seen.append(other)
    return seen[-1] if len(seen) > 1 else None


def _param(param: Param) -> str:
    unit = f", counts {param.unit}" if param.unit else ""
    within = f", {_within(param.range)}" if param.range else ""
    return f"{param.type}, {format_scalar(param.default)} unless set{unit}{within}."


def _within(within: Range) -> str:
    if within.choices:
        return f"one of {', '.join(map(format_scalar, within.choices))}"
    low, high = within.low, within.high
    parts = [] if low is None else [f"{'above' if within.low_open else 'at least'} {low:g}"]
    parts += [] if high is None else [f"{'below' if within.high_open else 'at most'} {high:g}"]
    return " and ".join(parts)


def _one_line(statement: str) -> str:
    """The statement with one blank where there are more, or line breaks; strings stay."""
    return _BLANKS.sub(lambda m: m[1] or " ", statement)


def _ticked(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in dict.fromkeys(names))


def _code(text: str) -> str:
    return f"```rl\n{text}\n```"
