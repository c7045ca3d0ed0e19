"""Nodes whose condition is false go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import SINKS, FieldArg, Graph, Method, Module, Node, changed
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import edges_of
from rldsl.compiler.plan import Dropped
from rldsl.diagnostics import Diagnostics


@dataclass(frozen=True, kw_only=True)
class FoldConditions:
    """Decide every `when`, now that parameters have values, and mark what an absent producer leaves absent.

    Before: `node ref = ... -> ref_logp when kl_coef > 0`, kl_coef = 0; `policy_loss(..., ref_logp?)`
    After:  no `ref`; the loss is called without `ref_logp`.
    """

    name: ClassVar[str] = "fold_conditions"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph without conditions. That nobody needs a missing field, check_types has proved."""
        graph = module.graph
        gone = [n for n in graph.nodes if isinstance(n.when, Literal) and not n.when.value]
        missing = {f for n in gone for f in n.outputs}
        ids = {n.id for n in gone} | {n.id for n in graph.nodes if _goes_along(n, missing)}
        gone = [n for n in graph.nodes if n.id in ids]
        kept = tuple(_without(n, missing, ids) for n in graph.nodes if n.id not in ids)
        _check_still_useful(kept, graph, context.found)
        dropped = tuple(Dropped(what=n.id, by=self.name, why="its condition is false") for n in gone)
        graph = graph.with_nodes(kept)
        graph = graph.with_edges(edges_of(graph))  # what waits for a training that is gone waits for the next
        return replace(module, graph=graph, dropped=module.dropped + dropped)


def _goes_along(node: Node, missing: set[str]) -> bool:
    """Whether a metric goes with its field or mask, or an output with all its fields."""
    if node.call.method is Method.METRIC:
        return not missing.isdisjoint(node.reads)
    return node.call.method is Method.OUTPUT and missing.issuperset(node.reads)


def _check_still_useful(kept: tuple[Node, ...], graph: Graph, found: Diagnostics) -> None:
    if not any(n.call.method is Method.TRAIN for n in kept):
        fix = "choose parameters under which the condition of some `train` node holds"
        found.error("RL0403", "with these parameters no node trains a model", span=graph.span, fix=fix)
    for node in kept:
        if node.call.args and not node.reads:
            found.error("RL0302", f"with these parameters nothing is left for `{node.id}` to read", span=node.span)


def _without(node: Node, missing: set[str], gone: set[str]) -> Node:
    def mark(arg: FieldArg) -> FieldArg:
        return changed(arg, absent=True) if arg.name in missing else arg

    if node.when is not None:
        node = changed(node, when=None)
    if missing.isdisjoint(node.reads) and gone.isdisjoint(node.after):
        return node
    if node.call.method in SINKS:
        there = tuple(a for a in node.call.args if a.name not in missing)
        return changed(node, call=changed(node.call, args=there))
    after = tuple(a for a in node.after if a not in gone)
    return changed(node, call=changed(node.call, args=tuple(mark(a) for a in node.call.args)), after=after)
