"""How deep each node lies, and in what order equal depths run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context


@dataclass(frozen=True, kw_only=True)
class ComputeDepth:
    """Longest path from a source to each node, then one order: by depth, and as written among equals.

    A diamond keeps its two arms at one depth instead of being cut into chains.
    Before: rollout -> {reward, old} -> advantage.   After: depths 0, {1, 1}, 2; order rollout, reward, old, advantage.
    """

    name: ClassVar[str] = "compute_depth"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `depths` and `order`."""
        graph = module.graph
        before: dict[str, list[str]] = {n.id: [] for n in graph.nodes}
        for edge in graph.edges:
            before[edge.target].append(edge.source)
        depths: dict[str, int] = {}
        for node_id in graph.in_order:
            depths[node_id] = max((depths[p] + 1 for p in before[node_id]), default=0)
        position = {n.id: i for i, n in enumerate(graph.nodes)}
        order = tuple(sorted(position, key=lambda n: (depths[n], position[n])))
        return replace(module, depths={n: depths[n] for n in order}, order=order)
