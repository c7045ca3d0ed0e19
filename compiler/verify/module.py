"""What must hold of a module between any two passes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from rldsl.compiler.ir import EdgeKind, Graph, Module


class InvalidModuleError(AssertionError):
    """A pass left the module in a state that no pass may leave: a bug of ours."""


def verify_module(module: Module, after: str, known: Graph | None = None) -> None:
    """What must hold after any pass. Raises InvalidModuleError naming the pass.

    `known` is a graph for which this was proved: when the pass has left it as it was, only the rest is looked at.
    """
    of_graph = () if module.graph is known else _graph_problems(module)
    for problem in chain(of_graph, _module_problems(module)):
        raise InvalidModuleError(f"after {after}: {problem}")


def _graph_problems(module: Module) -> Iterator[str]:
    graph = module.graph
    if len({n.id for n in graph.nodes}) < len(graph.nodes):
        yield "node ids are not unique"
    if not all(e.source in graph.node_of and e.target in graph.node_of for e in graph.edges):
        yield "an edge leads nowhere"
    edges = {(e.source, e.target, e.carries) for e in graph.edges if e.kind is EdgeKind.FIELD}
    if graph.edges:
        for node in graph.nodes:
            for name in node.reads:
                producer = graph.producer_of.get(name)
                if producer is not None and (producer.id, node.id, name) not in edges:
                    yield f"`{node.id}` reads `{name}` without an edge"
        if graph.has_cycle:
            yield "the graph has a cycle"


def _module_problems(module: Module) -> Iterator[str]:
    graph = module.graph
    written = [f for n in graph.nodes for f in n.outputs if f in module.fields]
    if len(written) != len(set(written)):
        yield "a field has two producers"
    if module.order:
        place = {n: i for i, n in enumerate(module.order)}
        if place.keys() != graph.node_of.keys():
            yield "the order does not hold every node"
        elif any(place[e.source] >= place[e.target] for e in graph.edges):
            yield "the order breaks an edge"
    op_ids = [op.id for op in module.ops]
    if len(op_ids) != len(set(op_ids)):
        yield "op ids are not unique"
