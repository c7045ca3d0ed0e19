"""Values of tokens that meet are of the same tokens."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar

from rldsl.compiler.ir import Graph, Method, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.unroll_loops import is_take
from rldsl.diagnostics import Diagnostics

_SAMPLING = frozenset({Method.GENERATE, Method.EXTEND})


@dataclass(frozen=True, kw_only=True)
class CheckSequences:
    """Report a node that pairs values of one sequence of tokens with those of another: nothing says which go together.

    Each rollout, and each further turn, makes sequences of its own length; what is computed of their tokens has it too.
    Before: `x = actor.extend(tokens, ...) -> t, m, l, c`, `old = actor.logprob(t, response_mask)`.   After: RL0310.
    """

    name: ClassVar[str] = "check_sequences"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is."""
        walk = _Walk(module, context.found)
        for node_id in module.graph.in_order:
            walk.node(module.graph.node_of[node_id])
        return module


@dataclass
class _Walk:
    module: Module
    found: Diagnostics
    # What made the tokens that a field has values of; fields without tokens have no entry.
    sequences: dict[str, Hashable] = field(default_factory=dict)

    def node(self, node: Node) -> None:
        if node.call.method is Method.COLLECT:
            if is_take(node):
                self.taken(node)
            return
        read = {a.name: self.sequences[a.name] for a in node.call.args if not a.absent and a.name in self.sequences}
        ragged = [o for o in node.outputs if self.ragged(o)]
        sampled = node.call.method in _SAMPLING
        pairs = node.call.method is not None and node.call.method is not Method.OUTPUT
        if len(set(read.values())) > 1 and (pairs or ragged):
            self.mixed(node)
        made = node.id if sampled else next(iter(read.values()), None)
        self.sequences |= dict.fromkeys(ragged, made)

    def ragged(self, name: str) -> bool:
        info = self.module.fields.get(name)
        return info is not None and info.type.ragged

    def taken(self, node: Node) -> None:
        """What a loop collected is alike where it is alike in each iteration."""
        rounds = [n.call.args[1:] for n in _collecting(node, self.module.graph)]
        for name, args in zip(node.outputs, zip(*rounds, strict=True), strict=False):
            if self.ragged(name):
                self.sequences[name] = tuple(self.sequences.get(a.name) for a in args)

    def mixed(self, node: Node) -> None:
        """Once for all iterations of a loop: they stand at one place of the source."""
        groups: dict[Hashable, list[str]] = {}
        for arg in node.call.args:
            if not arg.absent and arg.name in self.sequences:
                groups.setdefault(self.sequences[arg.name], []).append(
                    f"`{(arg.written or arg.name).rpartition('.')[2]}`"
                )
        shown = "; ".join(" and ".join(names) for names in groups.values())
        which = "`carry` all fields of a sequence through the loop" if _of_loops(node, self.module.graph) else None
        self.found.error(
            "RL0310",
            f"these have values of different sequences of tokens: {shown}",
            span=node.call.span,
            fix=which or "read tokens, mask and log-probs of one rollout, or of one turn",
        )


def _collecting(take: Node, graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.call.method is Method.COLLECT and n.block == take.id]


def _of_loops(node: Node, graph: Graph) -> bool:
    """Whether a field that the node reads is what a loop carries, or the node stands in one."""
    carried = {c.param for b in graph.blocks for c in b.carry}
    return bool(node.round) or any(a.name in carried for a in node.call.args)
