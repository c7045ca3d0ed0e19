"""Edges from what nodes read and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from rldsl.compiler.ir import BlockKind, Edge, EdgeKind, Graph, Method, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.diagnostics import Diagnostics, Label

_WORDS = {
    EdgeKind.FIELD: "reads `{}` of",
    EdgeKind.WEIGHTS: "changes the weights of `{}`, so it follows",
    EdgeKind.ORDER: "stands after",
    EdgeKind.ROWS: "hands out what is collected by",
}


@dataclass(frozen=True, kw_only=True)
class InferEdges:
    """Connect each reader to the writer of its field, and each user of weights to the step that changes them.

    Every node works with the weights that the step began with, so whatever uses a model comes before its training.
    Before: three nodes.   After: rollout -> reward (completions), rollout -> update (tokens), old -> update (weights).
    """

    name: ClassVar[str] = "infer_edges"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph with edges; RL0401 for each cycle."""
        graph = replace(module.graph, edges=edges_of(module.graph))
        _check_cycles(graph, context.found)
        return replace(module, graph=graph)


def edges_of(graph: Graph) -> tuple[Edge, ...]:
    """Field, collection, order and weight edges, by target in source order."""
    weights = _weight_edges(graph)
    collecting: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.call.method is Method.COLLECT and node.block is not None:
            collecting.setdefault(node.block, []).append(node.id)
    edges: dict[Edge, None] = {}
    for node in graph.nodes:
        edges |= dict.fromkeys(_edges_into(node, graph, weights, collecting))
    return tuple(edges)


def _edges_into(
    node: Node, graph: Graph, weights: Mapping[str, list[Edge]], collecting: Mapping[str, list[str]]
) -> Iterator[Edge]:
    for name in node.reads:
        producer = graph.producer_of.get(name)
        if producer is not None:
            yield Edge(source=producer.id, target=node.id, kind=EdgeKind.FIELD, carries=name)
    if node.call.method is Method.COLLECT and node.block is None:
        for each in collecting.get(node.id, ()):
            yield Edge(source=each, target=node.id, kind=EdgeKind.ROWS, carries=node.id)
    for other in node.after:
        if other in graph.node_of:
            yield Edge(source=other, target=node.id, kind=EdgeKind.ORDER)
    yield from weights.get(node.id, ())


def trunk_of(model: str, graph: Graph) -> str:
    """The model whose weights change when `model` is trained: what it shares, or itself."""
    declared = graph.model_of.get(model)
    return declared.shares if declared is not None and declared.shares else model


def holder_of(model: str, graph: Graph) -> str:
    """The model whose layers `model` runs through: that of its trunk, or the one whose base it is."""
    declared = graph.model_of.get(model)
    return declared.base_of if declared is not None and declared.base_of else trunk_of(model, graph)


def _weight_edges(graph: Graph) -> dict[str, list[Edge]]:
    """By target: from every user of weights into the first node that trains them, and from each of those into the next.

    So a node that only uses them comes before all that train them, with as many edges as there are nodes.
    """
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.call.model is not None:
            users.setdefault(trunk_of(node.call.model, graph), []).append(node)
    edges: dict[str, list[Edge]] = {}
    for same in users.values():
        trains = [n for n in same if n.call.method is Method.TRAIN]
        if trains:
            edges[trains[0].id] = [_weights(n, trains[0]) for n in same if n.call.method is not Method.TRAIN]
            edges |= {after.id: [_weights(before, after)] for before, after in pairwise(trains)}
    return edges


def _weights(source: Node, target: Node) -> Edge:
    return Edge(source=source.id, target=target.id, kind=EdgeKind.WEIGHTS, carries=source.call.model or "")


def _check_cycles(graph: Graph, found: Diagnostics) -> None:
    if not graph.has_cycle:
        return
    import networkx as nx

    dag = graph.dag()
    loops = [n for n in dag if dag.has_edge(n, n)]
    rings = [sorted(c) for c in nx.strongly_connected_components(dag) if len(c) > 1]
    for members in [*([n] for n in loops), *rings]:
        inside = dag.subgraph(members)
        steps = [e[0] for e in nx.find_cycle(inside)]
        # Begin at the node that stands first in the source, so that the message does not depend on hashing.
        order = [n.id for n in graph.nodes]
        first = min(range(len(steps)), key=lambda i: order.index(steps[i]))
        path = [*steps[first:], *steps[:first]]
        carried = {(e.source, e.target): _WORDS[e.kind].format(e.carries) for e in graph.edges}
        shown = " -> ".join([*path, path[0]])
        labels = tuple(
            Label(span=span, message=f"`{b}` {carried[a, b]} `{a}`")
            for a, b in zip(path, [*path[1:], path[0]], strict=True)
            if (span := graph.node_of[b].span)
        )
        found.error(
            "RL0401",
            f"these nodes wait for each other: {shown}",
            span=graph.node_of[path[0]].span,
            labels=labels,
            fix=_way_out(path, graph),
        )


def _way_out(path: list[str], graph: Graph) -> str:
    """Inside a loop what closes the circle is mostly a field of the iteration before, which is to be carried."""
    blocks = {graph.node_of[n].block for n in path}
    loop = graph.block_of.get(next(iter(blocks)) or "") if len(blocks) == 1 else None
    if loop is None or loop.kind is not BlockKind.LOOP or loop.where is not None:
        return "a node reads only what the nodes before it write; weights are those of the step's beginning"
    ring = set(zip(path, [*path[1:], path[0]], strict=True))
    within = {e.carries.removeprefix(f"{loop.id}.") for e in graph.edges if (e.source, e.target) in ring}
    outside = [name for name in (*graph.input_of, *graph.producer_of) if name in within]
    if outside:
        return f"carry what an iteration reads of the one before: `loop {loop.id} ... carry ..., {', '.join(outside)}`"
    return "what an iteration reads of the one before is carried, and has a first value from outside the loop"
