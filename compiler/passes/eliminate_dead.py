"""What no training step, metric or output needs is not computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.dag import leading_to
from rldsl.compiler.ir import SINKS, Edge, EdgeKind, Graph, Method, Module, Node, changed
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import edges_of
from rldsl.compiler.passes.unroll_loops import is_take
from rldsl.compiler.plan import Dropped


@dataclass(frozen=True, kw_only=True)
class EliminateDead:
    """Drop nodes that no training step needs, then fields that nothing reads, then models that nothing uses.

    Before: `ref = reference.logprob(...) -> ref_logp` and no reader of `ref_logp`.
    After:  no `ref`, and no model `reference`.
    """

    name: ClassVar[str] = "eliminate_dead"

    def apply(self, module: Module, context: Context) -> Module:
        """The live graph, with edges inferred anew from what is still read."""
        graph = _live(module.graph)
        live, read = graph.node_of, _read(graph.nodes)
        models = {n.call.model for n in graph.nodes}
        models |= {m.shares for m in graph.models if m.name in models}
        used = tuple(m for m in graph.models if m.name in models)
        fields = {f: i for f, i in module.fields.items() if f in read}
        # A loop that reads an input by itself leaves the input as it was; that one is not missed.
        own_copies = {n.rpartition(".")[2] for i in graph.inputs if i.round for n in i.names}
        dropped = [
            Dropped(what=n.id, by=self.name, why="no training step, metric or output needs it")
            for n in module.graph.nodes
            if n.id not in live
        ]
        dropped += [
            Dropped(what=f, by=self.name, why="nothing reads it")
            for f in module.fields
            if f not in read
            and (module.fields[f].producer in live or module.fields[f].producer == "input")
            and f not in own_copies
        ]
        dropped += [
            Dropped(what=m.name, by=self.name, why="no node is left that uses it")
            for m in graph.models
            if m not in used
        ]
        live_graph = graph.with_values(used, graph.inputs, graph.blocks)
        return replace(module, graph=live_graph, fields=fields, dropped=module.dropped + tuple(dropped))


def _read(nodes: Iterable[Node]) -> set[str]:
    return {f for n in nodes for f in n.reads}


def _live(graph: Graph) -> Graph:
    """What trainings, metrics and outputs need. A loop need not collect what only dead nodes read: so once more."""
    live, read = graph, _read(graph.nodes)
    before: set[str] | None = None
    last: Graph | None = None
    while read != before and (thin := _without_unread_rows(graph, read)) is not last:
        last = thin
        thin = thin.with_edges(edges_of(thin))
        needed = leading_to(_roots(thin), ((e.source, e.target) for e in thin.edges if _carries_data(e)))
        live = thin.with_nodes(tuple(n for n in thin.nodes if n.id in needed))
        read, before = _read(live.nodes), read
    return live


def _roots(graph: Graph) -> list[str]:
    """Trainings, metrics, outputs; and what a loop collects, where its count decides whether one of these runs."""
    sinks = [n for n in graph.nodes if n.call.method in SINKS]
    waited = {n.block for n in sinks if n.round > 1}
    takes = [n.id for n in graph.nodes if is_take(n) and n.id in waited]
    return [*(n.id for n in graph.nodes if n.call.method is Method.TRAIN), *(n.id for n in sinks), *takes]


def _carries_data(edge: Edge) -> bool:
    """Whether the target needs what the source computes; order and weight edges only say who comes first."""
    return edge.kind in (EdgeKind.FIELD, EdgeKind.ROWS)


def _without_unread_rows(graph: Graph, read: set[str]) -> Graph:
    """The graph whose loops collect only those fields of the collection that are `read`."""
    unread = {b.id: gone for b in graph.blocks if b.where and any(gone := [c.param not in read for c in b.collect])}

    def thin(node: Node) -> Node:
        drop = unread.get(node.block or node.id)
        if node.call.method is not Method.COLLECT or drop is None:
            return node
        outputs = tuple(o for o, gone in zip(node.outputs, drop, strict=False) if not gone)
        args = tuple(a for a, gone in zip(node.call.args, [False, *drop], strict=False) if not gone)
        return changed(node, outputs=outputs, call=changed(node.call, args=args))

    return graph.with_nodes(tuple(map(thin, graph.nodes))) if unread else graph
