"""What can be typed at a place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rldsl.cli.ls import field_words, source_words
from rldsl.compiler.ir import Method, ModelKind, ParamType
from rldsl.compiler.methods import CLUSTERS, DATA_SOURCES, ENGINES, MODEL_SOURCES, Setting
from rldsl.compiler.ops import Reduction
from rldsl.compiler.plan import Phase
from rldsl.lsp.calls import arguments, method_words, methods_of, output_names, settings, value_words
from rldsl.lsp.facts import field_info, function_words
from rldsl.lsp.scan import (
    CONNECTING,
    IN_BLOCK,
    TOP_LEVEL,
    Kind,
    Mode,
    Scan,
    Statement,
    in_comment,
    scan,
    wants_name,
)
from rldsl.lsp.view import Symbol, View
from rldsl.types import PROMPT, SAMPLE, TOKEN, DType, NodeType, Role

_WORD = re.compile(r"[^\W\d]\w*\Z")
# After a whole statement its own next words come first, then those that begin another.
_FIRST, _NEXT, _LAST = 0, 1, 2
_LISTS = frozenset({Mode.EXPR, Mode.SETTINGS, Mode.FIELDS, Mode.OUTPUTS, Mode.NODES, Mode.WEIGHTS})
_FIELD_TYPES = tuple(
    f"{dtype}[{axes}]"
    for axes in (PROMPT, SAMPLE, f"{SAMPLE}, {TOKEN}")
    for dtype in DType
    if dtype != DType.TEXT or "," not in axes
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to type: `kind` names what it is, `rank` where in the list it belongs, lowest first."""

    label: str
    kind: str
    detail: str = ""
    documentation: str = ""
    rank: int = _FIRST


@dataclass(frozen=True)
class _Place:
    view: View
    here: Scan  # of what stands before
    statement: Statement
    block: str
    first: bool  # on its line

    @property
    def wanted(self) -> bool:
        """Whether a name must come here."""
        return not self.here.tokens or wants_name(self.here.tokens[-1])


def complete(view: View, offset: int) -> list[Item]:
    """What can stand where the cursor is, without what has been typed of it taken into account."""
    text = view.source.text.text[:offset]
    if in_comment(text, offset):
        return []
    here = scan(text)
    if here.tokens and here.tokens[-1].kind == "string" and here.tokens[-1].end == offset:
        return list(_files(view, here)) if _open(here.tokens[-1].text) else []
    typed = _WORD.search(text)
    before = text[: typed.start()] if typed else text
    here = scan(before) if typed else here
    first = not before.rpartition("\n")[2].strip()
    statement = here.statements[-1] if here.statements else Statement("", 0, 0)
    block = here.block.names[0] if here.block and here.block.keyword in ("loop", "validate") else ""
    found: dict[tuple[str, str], Item] = {}
    for item in sorted(_items(_Place(view, here, statement, block, first)), key=lambda i: i.rank):
        found.setdefault((item.label, item.kind), item)
    return list(found.values())


def _open(string: str) -> bool:
    return len(string) < 2 or not string.endswith('"') or string.endswith('\\"')


def _items(place: _Place) -> Iterator[Item]:
    mode = place.here.mode
    if mode is Mode.BODY:
        yield from _statements(place, _FIRST)
        return
    if place.first:
        yield from _statements(place, _LAST)
    if mode is Mode.AFTER or (mode in _LISTS and not place.wanted):
        yield from _connecting(place)
    elif mode in _BY_MODE:
        yield from _BY_MODE[mode](place)


def _statements(place: _Place, rank: int) -> Iterator[Item]:
    block = place.here.block
    words = IN_BLOCK.get(block.keyword, ()) if block else TOP_LEVEL
    return (Item(label=w, kind="keyword", rank=rank) for w in words)


def _connecting(place: _Place) -> Iterator[Item]:
    if place.here.in_call:
        return
    for word in CONNECTING.get(place.statement.keyword, {}):
        if word not in place.statement.joined:
            yield Item(label=word, kind="keyword", rank=_NEXT)
    if place.statement.keyword == "node" and place.here.mode is Mode.AFTER:
        yield Item(label="->", kind="keyword", rank=_NEXT)


def _words(words: Iterable[str], kind: str = "enum") -> Callable[[_Place], Iterator[Item]]:
    fixed = tuple(Item(label=str(w), kind=kind) for w in words)
    return lambda place: iter(fixed)


def _models(place: _Place) -> Iterator[Item]:
    graph = place.view.module.graph if place.view.module else None
    for name in place.view.names(Kind.MODEL):
        model = graph.model_of.get(name) if graph else None
        yield Item(label=name, kind="model", detail=f"{model.kind} model" if model else "")


def _call(place: _Place) -> Iterator[Item]:
    yield Item(label="compute", kind="keyword")
    yield from _models(place)


def _deploy(place: _Place) -> Iterator[Item]:
    if not place.first:
        yield Item(label="on", kind="keyword")
        return
    yield Item(label="cluster", kind="keyword")
    yield from _models(place)
    nodes = place.view.module.graph.nodes if place.view.module else ()
    yield from (
        Item(label=n.id, kind="node") for n in nodes if not n.call.model and n.call.method is not Method.COLLECT
    )


def _ranks(place: _Place) -> Iterator[Item]:
    """Numbers are the user's own; behind them begins the next line."""
    return _deploy(place) if place.first else iter(())


def _weights(place: _Place) -> Iterator[Item]:
    yield from (Item(label=w, kind="keyword") for w in ("frozen", "copy", "shared"))
    yield from (Item(label=n, kind="source", detail=source_words(n, k)) for n, k in MODEL_SOURCES.items())
    own = place.statement.names
    yield from (i for i in _models(place) if i.label not in own)


def _rows(place: _Place) -> Iterator[Item]:
    return (Item(label=n, kind="source", detail=source_words(n, k)) for n, k in DATA_SOURCES.items())


def _methods(place: _Place) -> Iterator[Item]:
    graph = place.view.module.graph if place.view.module else None
    model = graph.model_of.get(place.statement.model) if graph else None
    kind: ModelKind | None = model.kind if model else None
    for name in methods_of(kind):
        if not (name == Method.TRAIN and model and model.frozen):
            yield Item(label=name, kind="method", detail=method_words(name))


def _functions(place: _Place) -> Iterator[Item]:
    losses = place.here.mode is Mode.LOSS
    for name, function in place.view.functions.items():
        signature = function.signature
        if signature is None or signature.is_loss == losses:
            rank = _NEXT if function.shipped else _FIRST
            yield Item(
                label=name, kind="function", detail=function.summary, documentation=function_words(function), rank=rank
            )


def _fields(place: _Place) -> Iterator[Item]:
    block = place.statement.names[0] if place.statement.keyword == "loop" and place.statement.names else place.block
    taken = {p.name: p for p in arguments(place.statement, place.view.functions)}
    for name in place.view.names(Kind.FIELD, block):
        info = field_info(place.view, Symbol(Kind.FIELD, name, block)) or field_info(
            place.view, Symbol(Kind.FIELD, name)
        )
        rank = _FIRST if name in taken else _NEXT
        yield Item(label=name, kind="field", detail=str(info.type) if info else "", rank=rank)
    if place.here.in_call:
        yield from (
            Item(label=f"{name} =", kind="setting", detail=field_words(p), rank=_LAST) for name, p in taken.items()
        )


def _settings(place: _Place) -> Iterator[Item]:
    inside, options = settings(place.statement, place.view.functions)
    for value in inside if place.here.in_call else options:
        if value.name not in place.statement.given:
            yield Item(label=value.name, kind="setting", detail=value_words(value))


def _expression(place: _Place) -> Iterator[Item]:
    if place.statement.keyword == "param":
        yield from (Item(label=w, kind="keyword") for w in ("true", "false"))
        return
    values = [v for part in settings(place.statement, place.view.functions) for v in part]
    asked = next((v for v in values if v.name == place.statement.setting), None)
    if isinstance(asked, Setting):
        yield from (Item(label=f'"{c}"', kind="enum") for c in asked.choices)
    for name in place.view.names(Kind.PARAM):
        yield Item(label=name, kind="param", detail=_default(place.view, name))
    yield from (Item(label=w, kind="keyword", rank=_LAST) for w in ("true", "false", "none", "not"))


def _default(view: View, name: str) -> str:
    params = view.module.graph.params if view.module else ()
    return next((f"{p.type} = {p.default}" for p in params if p.name == name), "")


def _outputs(place: _Place) -> Iterator[Item]:
    names = output_names(place.statement, place.view.functions)
    return (Item(label=n, kind="field") for n in names if n not in place.statement.names)


def _nodes(place: _Place) -> Iterator[Item]:
    names = place.view.names(Kind.NODE, place.block)
    return (Item(label=n, kind="node") for n in names if n not in place.statement.names)


def _engines(place: _Place) -> Iterator[Item]:
    phases = [p for p in Phase if p.value == place.statement.method] or list(Phase)
    return (Item(label=e, kind="enum") for p in phases for e in ENGINES.get(p, ()))


def _files(view: View, here: Scan) -> Iterator[Item]:
    """Files beside the document that `use` or `import` may name."""
    keyword = here.statements[-1].keyword if here.statements else ""
    suffix = {"use": ".py", "import": ".rl"}.get(keyword)
    own = view.source.text.path
    if suffix is None or not own.parent.is_dir():
        return
    for path in sorted(own.parent.glob(f"*{suffix}")):
        if path.name != own.name:
            yield Item(label=path.name, kind="file")


_BY_MODE: dict[Mode, Callable[[_Place], Iterator[Item]]] = {
    Mode.PARAM_TYPE: _words(ParamType),
    Mode.MODEL_KIND: _words(ModelKind),
    Mode.FIELD_TYPE: _words(_FIELD_TYPES),
    Mode.ROLE: _words(Role),
    Mode.NODE_TYPE: _words(NodeType),
    Mode.REDUCTION: _words(Reduction),
    Mode.CLUSTER: _words(CLUSTERS),
    Mode.PHASE: _words(p.value for p in Phase),
    Mode.WEIGHTS: _weights,
    Mode.ROWS: _rows,
    Mode.CALL: _call,
    Mode.METHOD: _methods,
    Mode.LOSS: _functions,
    Mode.FUNCTION: _functions,
    Mode.FIELDS: _fields,
    Mode.SETTINGS: _settings,
    Mode.EXPR: _expression,
    Mode.OUTPUTS: _outputs,
    Mode.NODES: _nodes,
    Mode.DEPLOY: _deploy,
    Mode.RANKS: _ranks,
    Mode.ENGINE: _engines,
}
