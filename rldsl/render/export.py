"""The graph in the languages of other tools: Mermaid for a README, DOT for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.plan import Plan
from rldsl.render.nodes import NodeView, edges_of, nodes_of

_FILLS = {
    "ACTOR": "#c5e8ef",
    "CRITIC": "#e8d3ee",
    "REWARD": "#f7ecc4",
    "REFERENCE": "#cfdcf5",
    "ADVANTAGE": "#d3edd2",
}
_FILL = "#eeeeee"


def mermaid(plan: Plan) -> str:
    """A Mermaid flowchart; GitHub draws it between ```mermaid fences."""
    return "\n".join(_mermaid(nodes_of(plan))) + "\n"


def dot(plan: Plan) -> str:
    """A Graphviz digraph."""
    return "\n".join(_dot(plan.algorithm, nodes_of(plan))) + "\n"


def _mermaid(nodes: tuple[NodeView, ...]) -> Iterator[str]:
    yield "flowchart TD"
    for node in nodes:
        # A prefix, because `end` and `class` are words of Mermaid.
        yield f'  n_{node.id}["<b>{node.id}</b><br/>{node.call}<br/><i>{node.role}</i>"]'
    for source, target, fields in edges_of(nodes):
        yield f'  n_{source} -->|"{", ".join(fields)}"| n_{target}'
    for node in nodes:
        yield f"  style n_{node.id} fill:{_FILLS.get(node.role, _FILL)},stroke:#555,color:#111"


def _dot(name: str, nodes: tuple[NodeView, ...]) -> Iterator[str]:
    yield f'digraph "{name}" {{'
    yield '  node [shape=box, style="rounded,filled", fontname="Helvetica"];'
    yield '  edge [fontname="Helvetica", fontsize=10];'
    for node in nodes:
        label = f"{node.id}\\n{node.call}\\n{node.role}"
        yield f'  "{node.id}" [label="{label}", fillcolor="{_FILLS.get(node.role, _FILL)}"];'
    for source, target, fields in edges_of(nodes):
        yield f'  "{source}" -> "{target}" [label="{", ".join(fields)}"];'
    yield "}"
