"""What must hold of a module between any two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rldsl.compiler.ir import Edge, EdgeKind, Module


class InvalidModuleError(AssertionError):
    """A pass left the module in a state that no pass may leave: a bug of ours."""


def verify_module(module: Module, after: str, known: Module | None = None) -> None:
    """What must hold after any pass. Raises InvalidModuleError naming the pass.

    `known` is a module for which this was proved: of what the pass has left as it was nothing is looked at again.
    """
    for names, problems in _CHECKS.items():
        if known is not None and all(getattr(module, n) is getattr(known, n) for n in names):
            continue
        for problem in problems(module):
            raise InvalidModuleError(f"after {after}: {problem}")


def _graph_problems(module: Module) -> Iterator[str]:
    graph = module.graph
    if len({n.id for n in graph.nodes}) < len(graph.nodes):
        yield "node ids are not unique"
    if not all(e.source in graph.node_of and e.target in graph.node_of for e in graph.edges):
        yield "an edge leads nowhere"
    if graph.edges:
        producers = graph.producer_of
        needed = {
            Edge(producers[name].id, node.id, EdgeKind.FIELD, name)
            for node in graph.nodes
            for name in node.reads
            if name in producers
        }
        for edge in sorted(needed.difference(graph.edges)):
            yield f"`{edge.target}` reads `{edge.carries}` without an edge"
        if graph.has_cycle:
            yield "the graph has a cycle"


def _field_problems(module: Module) -> Iterator[str]:
    written = [f for n in module.graph.nodes for f in n.outputs if f in module.fields]
    if len(written) != len(set(written)):
        yield "a field has two producers"


def _order_problems(module: Module) -> Iterator[str]:
    if not module.order:
        return
    place = {n: i for i, n in enumerate(module.order)}
    if place.keys() != module.graph.node_of.keys():
        yield "the order does not hold every node"
    elif any(place[e.source] >= place[e.target] for e in module.graph.edges):
        yield "the order breaks an edge"


def _op_problems(module: Module) -> Iterator[str]:
    op_ids = [op.id for op in module.ops]
    if len(op_ids) != len(set(op_ids)):
        yield "op ids are not unique"


# What is looked at, by the parts of a module that decide it.
_CHECKS: Mapping[tuple[str, ...], Callable[[Module], Iterator[str]]] = {
    ("graph",): _graph_problems,
    ("graph", "fields"): _field_problems,
    ("graph", "order"): _order_problems,
    ("ops",): _op_problems,
}
