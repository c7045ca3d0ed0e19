"""Edges from what nodes read and write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from rldsl.compiler.ir import Edge, EdgeKind, Graph, Method, Module
from rldsl.compiler.passes.base import Context
from rldsl.diagnostics import Diagnostics, Label

_WORDS = {
    EdgeKind.FIELD: "reads `{}` of",
    EdgeKind.WEIGHTS: "changes the weights of `{}`, so it follows",
    EdgeKind.ORDER: "stands after",
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
    """Field, weight and order edges, by target in source order."""
    edges: dict[Edge, None] = {}
    for position, node in enumerate(graph.nodes):
        for name in node.reads:
            producer = graph.producer_of.get(name)
            if producer is not None:
                edges[Edge(source=producer.id, target=node.id, kind=EdgeKind.FIELD, carries=name)] = None
        for other in node.after:
            if other in graph.node_of:
                edges[Edge(source=other, target=node.id, kind=EdgeKind.ORDER)] = None
        if node.call.method is Method.TRAIN:
            for index, user in enumerate(graph.nodes):
                earlier_training = user.call.method is Method.TRAIN and index < position
                uses = user.call.model == node.call.model and user.id != node.id
                if uses and (user.call.method is not Method.TRAIN or earlier_training):
                    edge = Edge(source=user.id, target=node.id, kind=EdgeKind.WEIGHTS, carries=node.call.model or "")
                    edges[edge] = None
    return tuple(edges)


def _check_cycles(graph: Graph, found: Diagnostics) -> None:
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
            fix="a node reads only what the nodes before it write; weights are those of the step's beginning",
        )
