"""Every name is defined once where it is defined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from rldsl.compiler.ir import Block, FieldArg, Input, Model, Module, Node, Param, changed
from rldsl.compiler.passes.base import Context
from rldsl.diagnostics import Diagnostics, Label, Span

_T = TypeVar("_T", Param, Model, Node, Block)

UNNAMED = ""
"""What a field is called whose name is taken; RL0205 has been reported."""


@dataclass(frozen=True, kw_only=True)
class CheckUnique:
    """Report what is defined twice in a file, and go on with the first; what is imported may be defined anew.

    What only the second would have written is poisoned: nobody who reads it is told that it is unknown.
    Before: `node old = ... -> old_logp`, `node old = ... -> ref_logp`.
    After:  RL0205, and the graph without the second.
    """

    name: ClassVar[str] = "check_unique"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph with one definition of each parameter, model, block and, in each scope, node."""
        graph, found = module.graph, context.found
        check = _Once(found)
        params = check.once("parameter", graph.params)
        models = check.once("model", graph.models)
        blocks = check.once("block", graph.blocks, [(n.id, n.span) for n in graph.nodes])
        nodes = check.once("node", graph.nodes)
        check.known = graph.poisoned
        inputs, nodes = check.fields(_replaced(graph.inputs), nodes)
        blocks = tuple(
            replace(
                b, nodes=check.once("node", b.nodes), carry=_listed(b.carry, found), collect=_listed(b.collect, found)
            )
            for b in blocks
        )
        blocks = tuple(
            replace(b, inputs=ins, nodes=outs) for b in blocks for ins, outs in [check.fields(b.inputs, b.nodes)]
        )
        poisoned = graph.poisoned | check.lost
        return replace(
            module,
            graph=replace(
                graph, params=params, models=models, inputs=inputs, nodes=nodes, blocks=blocks, poisoned=poisoned
            ),
        )


class _Once:
    """Keeps the first of each name; `lost` are the fields that only others would have written.

    What is `known` to be wrong already is not reported.
    """

    def __init__(self, found: Diagnostics) -> None:
        self.found = found
        self.lost: frozenset[str] = frozenset()
        self.known: frozenset[str] = frozenset()

    def once(self, what: str, items: tuple[_T, ...], taken: Iterable[tuple[str, Span | None]] = ()) -> tuple[_T, ...]:
        first: dict[str, Span | None] = dict(taken)
        kept: dict[str, _T] = {}
        for item in items:
            name = item.id if isinstance(item, (Node, Block)) else item.name
            if name not in first:
                first[name] = item.span
                kept[name] = item
            elif name in kept and _elsewhere(item.span, first[name]):
                kept[name] = item
            else:
                _twice(what, name, item.span, first[name], self.found)
                self.lost |= _written(item)
        return tuple(kept.values())

    def fields(self, inputs: Iterable[Input], nodes: Iterable[Node]) -> tuple[tuple[Input, ...], tuple[Node, ...]]:
        """The statements of one scope, where a field that is written a second time has lost its name there."""
        first: dict[str, Span | None] = {}

        def names(written: tuple[str, ...], span: Span | None) -> tuple[str, ...]:
            kept = []
            for name in written:
                if name in first and name not in self.known:
                    _twice("field", name, span, first[name], self.found, _replacing(name, span, nodes))
                kept.append(UNNAMED if name in first else name)
                first.setdefault(name, span)
            return tuple(kept)

        made = tuple(replace(i, names=names(i.names, i.span)) for i in inputs)
        return made, tuple(changed(n, outputs=names(n.outputs, n.span)) for n in nodes)


def _elsewhere(one: Span | None, other: Span | None) -> bool:
    """Whether two definitions are of two files: then the later one replaces what was imported, where that stood."""
    return one is not None and other is not None and one.file != other.file


def _written(item: Param | Model | Node | Block) -> frozenset[str]:
    if isinstance(item, Node):
        return frozenset(item.outputs)
    return frozenset(f for n in item.nodes for f in n.outputs) if isinstance(item, Block) else frozenset()


def _listed(fields: tuple[FieldArg, ...], found: Diagnostics) -> tuple[FieldArg, ...]:
    """Without fields that a loop names a second time."""
    first: dict[str, FieldArg] = {}
    for arg in fields:
        if arg.name in first:
            found.error("RL0205", f"`{arg.name}` is named twice", span=arg.span, fix="remove one of them")
        first.setdefault(arg.name, arg)
    return tuple(first.values())


def _replaced(inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Without imported inputs of which a later file declares a field anew."""

    def later(index: int) -> bool:
        mine = inputs[index]
        return any(_elsewhere(i.span, mine.span) and {*i.names} & {*mine.names} for i in inputs[index + 1 :])

    return tuple(item for index, item in enumerate(inputs) if not later(index))


def _replacing(field: str, span: Span | None, nodes: Iterable[Node]) -> str | None:
    """How to replace the imported node that writes a field, for a node of another name."""
    first = next((n for n in nodes if field in n.outputs), None)
    return f"call it `{first.id}` to replace that one" if first and _elsewhere(span, first.span) else None


def _twice(
    what: str, name: str, span: Span | None, first: Span | None, found: Diagnostics, instead: str | None = None
) -> None:
    labels = (Label(span=first, message="first defined here"),) if first else ()
    fix = instead or "give one of them another name"
    found.error("RL0205", f"{what} `{name}` is defined twice", span=span, labels=labels, fix=fix)
