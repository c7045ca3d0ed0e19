"""The graph in the languages of other tools: Mermaid for a README, DOT for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.plan import Plan
from rldsl.render.blocks import Part, parts_of
from rldsl.render.flows import flows_of
from rldsl.render.nodes import METRIC, OUTPUT, Edge, NodeView, edges_of

_FILLS = {
    "ACTOR": "#c5e8ef",
    "CRITIC": "#e8d3ee",
    "REWARD": "#f7ecc4",
    "REFERENCE": "#cfdcf5",
    "ADVANTAGE": "#d3edd2",
}
_FILL = "#eeeeee"


def mermaid(plan: Plan, *, unrolled: bool = False, only: frozenset[str] | None = None) -> str:
    """A Mermaid flowchart, of the nodes `only` if given; GitHub draws it between ```mermaid fences.

    Thick arrows cross ranks.
    """
    crossing = _crossing(plan, unrolled=unrolled)
    lines = _mermaid(parts_of(plan, unrolled=unrolled, only=only), _edges(plan, only, unrolled=unrolled), crossing)
    return "\n".join(lines) + "\n"


def dot(plan: Plan, *, unrolled: bool = False, only: frozenset[str] | None = None) -> str:
    """A Graphviz digraph, of the nodes `only` if given; orange arrows cross ranks."""
    crossing, edges = _crossing(plan, unrolled=unrolled), _edges(plan, only, unrolled=unrolled)
    lines = _dot(plan.algorithm, parts_of(plan, unrolled=unrolled, only=only), edges, crossing)
    return "\n".join(lines) + "\n"


def fill_of(role: str) -> str:
    """The light colour of a role's boxes."""
    return _FILLS.get(role, _FILL)


def _crossing(plan: Plan, *, unrolled: bool) -> set[tuple[str, str]]:
    return {(f.source, f.target) for f in flows_of(plan, unrolled=unrolled) if f.crosses}


def _edges(plan: Plan, only: frozenset[str] | None, *, unrolled: bool) -> tuple[Edge, ...]:
    edges = edges_of(plan, unrolled=unrolled)
    return edges if only is None else tuple(e for e in edges if {e.source, e.target} <= only)


def _mermaid(parts: tuple[Part, ...], edges: tuple[Edge, ...], crossing: set[tuple[str, str]]) -> Iterator[str]:
    yield "flowchart TD"
    for part in parts:
        lines = [_mermaid_node(node) for node in part.nodes]
        if part.block is None:
            yield from lines
            continue
        yield f'  subgraph b_{_word(part.block.id)}["{part.block.title}"]'
        yield from (f"  {line}" for line in lines)
        yield "  end"
    for edge in edges:
        line = "==>" if (edge.source, edge.target) in crossing else "-->"
        arrow = f'-. "{_fields(edge)}" .->' if edge.again else f'{line}|"{_fields(edge)}"|'
        yield f"  n_{_word(edge.source)} {arrow} n_{_word(edge.target)}"
    for part in parts:
        for node in part.nodes:
            yield f"  style n_{_word(node.id)} fill:{fill_of(node.role)},stroke:#555,color:#111"


def _mermaid_node(node: NodeView) -> str:
    begin, end = ('(["', '"])') if node.role in (METRIC, OUTPUT) else ('["', '"]')
    call = node.call.replace("<", "&lt;").replace(">", "&gt;")
    text = "<br/>".join([f"<b>{node.title}</b>", call, *([node.when] if node.when else []), f"<i>{node.role}</i>"])
    # A prefix, because `end` and `class` are words of Mermaid.
    return f"  n_{_word(node.id)}{begin}{text}{end}"


def _word(name: str) -> str:
    """An id that Mermaid takes."""
    return name.replace(".", "__").replace(":", "_")


def _dot(name: str, parts: tuple[Part, ...], edges: tuple[Edge, ...], crossing: set[tuple[str, str]]) -> Iterator[str]:
    yield f'digraph "{name}" {{'
    yield '  node [shape=box, style="rounded,filled", fontname="Helvetica"];'
    yield '  edge [fontname="Helvetica", fontsize=10];'
    for part in parts:
        lines = [_dot_node(node) for node in part.nodes]
        if part.block is None:
            yield from lines
            continue
        yield f'  subgraph "cluster_{part.block.id}" {{'
        yield f'    label="{part.block.title}"; style=dashed; fontname="Helvetica";'
        yield from (f"  {line}" for line in lines)
        yield "  }"
    for edge in edges:
        style = ", style=dashed, constraint=false" if edge.again else ""
        style += ', color="#b45309"' if (edge.source, edge.target) in crossing else ""
        yield f'  "{edge.source}" -> "{edge.target}" [label="{_fields(edge)}"{style}];'
    yield "}"


def _dot_node(node: NodeView) -> str:
    label = "\\n".join([node.title, node.call, *([node.when] if node.when else []), node.role])
    return f'  "{node.id}" [label="{label}", fillcolor="{fill_of(node.role)}"];'


def _fields(edge: Edge) -> str:
    return ", ".join(edge.fields) + (" (next round)" if edge.again else "")
