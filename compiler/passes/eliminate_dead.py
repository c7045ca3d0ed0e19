"""What no training step needs is not computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from rldsl.compiler.ir import Edge, EdgeKind, Method, Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import edges_of
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
        graph = replace(module.graph, edges=edges_of(module.graph))
        needed = nx.DiGraph((e.source, e.target) for e in graph.edges if _carries_data(e))
        roots = [n.id for n in graph.nodes if n.call.method is Method.TRAIN]
        live = {a for r in roots if r in needed for a in nx.ancestors(needed, r)} | set(roots)
        kept = tuple(n for n in graph.nodes if n.id in live)
        read = {f for n in kept for f in n.reads}
        models = {n.call.model for n in kept}
        graph = graph.with_nodes(kept)
        used = tuple(m for m in graph.models if m.name in models)
        fields = {f: i for f, i in module.fields.items() if f in read}
        dropped = [
            Dropped(what=n.id, by=self.name, why="no training step needs it")
            for n in module.graph.nodes
            if n.id not in live
        ]
        dropped += [
            Dropped(what=f, by=self.name, why="nothing reads it")
            for f in module.fields
            if f not in read and (module.fields[f].producer in live or module.fields[f].producer == "input")
        ]
        dropped += [
            Dropped(what=m.name, by=self.name, why="no node is left that uses it")
            for m in graph.models
            if m not in used
        ]
        live_graph = replace(graph, models=used)
        return replace(module, graph=live_graph, fields=fields, dropped=module.dropped + tuple(dropped))


def _carries_data(edge: Edge) -> bool:
    """Whether the target needs what the source computes; order and weight edges only say who comes first."""
    return edge.kind is EdgeKind.FIELD
