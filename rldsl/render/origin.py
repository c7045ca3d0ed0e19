"""What the source said, for what the plan does not: where a statement stands, and what one was that is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from rldsl.compiler.cost.op_terms import PlanTerms
from rldsl.compiler.expr import Expr, ParamRef, format_expr, references
from rldsl.compiler.ir import Graph, Node
from rldsl.compiler.plan import Plan
from rldsl.compiler.printer import print_node
from rldsl.diagnostics import Span
from rldsl.render.scopes import general, leaf, scope_of
from rldsl.render.words import scalar


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of the source: its place (`grpo.rl:31:3`) and, of a node, its canonical text."""

    place: str
    text: str = ""


class Origin:
    """The graph as a front end read it, or where there is none what the plan itself says of its source."""

    def __init__(
        self,
        plan: Plan,
        graph: Graph | None = None,
        weights: Mapping[str, int] = MappingProxyType({}),
        terms: PlanTerms | None = None,
    ) -> None:
        """`weights` are the bytes of models whose configuration was found beside the source, `terms` all of memory."""
        self._plan = plan
        self.terms = terms
        self.weights = weights
        self._graph = graph or Graph(name=plan.algorithm)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Every node by its id in a plan, `block.name` where it stands in a block."""
        graph = self._graph
        inner = {f"{b.id}.{n.id}": n for b in graph.blocks for n in b.nodes}
        return {n.id: n for n in graph.nodes} | inner

    @cached_property
    def _spans(self) -> dict[str, Span | None]:
        return self._graph.spans

    def statement(self, name: str) -> Statement | None:
        """The statement that declares a node, model, input, parameter or block."""
        span = self._spans.get(general(name))
        if span is not None:
            node = self.nodes.get(general(name))
            return Statement(f"{span.file}:{span.line}:{span.column}", print_node(node) if node else "")
        source = self._plan.source
        known = next((n for n in (name, general(name)) if n in source.spans), None)
        if known is None:
            return None
        line, column = source.spans[known]
        return Statement(f"{source.files.get(known, source.path)}:{line}:{column}")

    def node(self, name: str) -> Statement | None:
        """The statement of a node; what a loop does by itself, collecting, goes back to that of the loop."""
        return self.statement(name) or self.statement(scope_of(name).block)

    def input(self, column: str) -> Statement | None:
        """The statement of an input; a loop reads on in one that stands outside of it."""
        return self.statement(column) or self.statement(leaf(column))

    def condition(self, name: str) -> str:
        """`kl_coef > 0 with kl_coef = 0`: a node's condition and the values in it; empty where it has none."""
        node = self.nodes.get(general(name))
        if node is None or node.when is None:
            return ""
        return f"`{format_expr(node.when)}`{self._values(node.when)}"

    def readers(self, name: str) -> Iterator[tuple[str, str]]:
        """(field, node) for each field that a node wrote, and each node that read it."""
        written = self.nodes[general(name)].outputs if general(name) in self.nodes else ()
        block = general(name).rpartition(".")[0]
        for field in written:
            for other, node in self.nodes.items():
                if other.rpartition(".")[0] in ("", block) and field in (leaf(a.name) for a in node.call.args):
                    yield field, other

    def users(self, param: str) -> tuple[str, ...]:
        """The nodes in whose condition or settings a parameter stands."""
        return tuple(name for name, n in self.nodes.items() if any(r.name == param for r in _references(n)))

    def _values(self, expr: Expr) -> str:
        names = dict.fromkeys(r.name for r in references(expr))
        pairs = [f"{n} = {scalar(self._plan.parameters[n])}" for n in names if n in self._plan.parameters]
        return f" with {', '.join(pairs)}" if pairs else ""


def _references(node: Node) -> Iterator[ParamRef]:
    for expr in (node.when, *(k.value for k in (*node.call.keywords, *node.call.options))):
        if expr is not None:
            yield from references(expr)
