"""Rows that add nothing to the gradient are not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Method, Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context


@dataclass(frozen=True, kw_only=True)
class SkipZeroRows:
    """Mark the field whose zeros make a loss's gradient vanish, as the loss's author promises.

    In GRPO a group whose rewards are all equal has advantage 0: with no KL term its rows need no forward or
    backward pass. They still count in the mean, so the loss is the same number.
    Before: `actor.train policy_loss(tokens, response_mask, advantages, old_logp)`
    After:  the same, skipping rows where `advantages` is 0.
    """

    name: ClassVar[str] = "skip_zero_rows"

    def apply(self, module: Module, context: Context) -> Module:
        """Training nodes with `skip_where_zero`."""
        nodes = tuple(self._node(n, module) for n in module.graph.nodes)
        return replace(module, graph=module.graph.with_nodes(nodes))

    def _node(self, node: Node, module: Module) -> Node:
        signature = module.signatures.get(node.call.function or "")
        if node.call.method is not Method.TRAIN or signature is None or signature.vanishing is None:
            return node
        present = {a.param: a for a in node.call.args if not a.absent}
        arg = present.get(signature.vanishing.field)
        spoilt = any(name in present for name in signature.vanishing.unless)
        if arg is None or spoilt or module.fields[arg.name].type.ragged:
            return node
        why = f"rows where `{arg.name}` is 0 add nothing to the gradient of `{signature.name}`"
        return changed(node, skip_where_zero=arg.name, because=(*node.because, Reason(by=self.name, why=why)))
