"""How many rows there are, and whether they divide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import FieldInfo, Method, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import keyword_value, number_of, option_of
from rldsl.diagnostics import Diagnostics


@dataclass(frozen=True, kw_only=True)
class CheckCounts:
    """Count the samples of each prompt, and find every number of ranks that the batch and minibatches divide by.

    Before: `tokens : i64[sample, token]`, samples of `rollout`.   After: the same, 8 for each prompt.
    """

    name: ClassVar[str] = "check_counts"

    def apply(self, module: Module, context: Context) -> Module:
        """Fields with `per_prompt`; `divides`, of which the number of ranks must be a divisor."""
        per_prompt = {n.id: int(number_of(n.call, "n")) for n in module.graph.nodes if n.call.method is Method.GENERATE}
        fields = {
            name: replace(info, per_prompt=per_prompt.get(info.lineage or "", 1))
            for name, info in module.fields.items()
        }
        batch = batch_of(module)
        _check_batches(module, batch, context.found)
        minibatches = [
            _check_minibatch(n, batch, context.found) for n in module.graph.nodes if n.call.method is Method.TRAIN
        ]
        for node in module.graph.nodes:
            _check_group(node, fields, module, context.found)
        return replace(module, fields=fields, divides=math.gcd(batch, *minibatches))


def batch_of(module: Module) -> int:
    """Prompts a step: what the inputs say."""
    for item in module.graph.inputs:
        if isinstance(item.batch, Literal) and isinstance(item.batch.value, int):
            return item.batch.value
    return 1


def minibatch_of(node: Node, batch: int) -> int:
    """Prompts an optimiser step of a training node; the whole batch unless it says otherwise."""
    minibatch = option_of(node.call, "minibatch")
    return minibatch if isinstance(minibatch, int) else batch


def _check_batches(module: Module, batch: int, found: Diagnostics) -> None:
    for item in module.graph.inputs:
        if isinstance(item.batch, Literal) and item.batch.value != batch:
            found.error(
                "RL0402",
                "inputs of one step must take the same number of prompts",
                span=item.span,
                expected=f"{batch} prompts",
                found=f"{item.batch.value} prompts",
            )


def _check_minibatch(node: Node, batch: int, found: Diagnostics) -> int:
    minibatch = minibatch_of(node, batch)
    span = next((o.span for o in node.call.options if o.name == "minibatch"), node.span)
    if minibatch > 0 and batch % minibatch:
        near = [d for d in range(1, batch + 1) if batch % d == 0]
        found.error(
            "RL0402",
            f"the batch of {batch} prompts is not a whole number of minibatches of {minibatch}",
            span=span,
            expected=f"a divisor of {batch}: {', '.join(map(str, near))}",
            found=f"{batch} = {batch // minibatch} x {minibatch} + {batch % minibatch}",
        )
    return max(minibatch, 1)


def _check_group(node: Node, fields: dict[str, FieldInfo], module: Module, found: Diagnostics) -> None:
    """A function with a hyper-parameter `group` works on whole groups: it must agree with the rollout."""
    group = keyword_value(node.call.keywords, "group", None)
    signature = module.signatures.get(node.call.function or "")
    if signature is None or not any(h.name == "group" for h in signature.hypers):
        return
    counts = {i.per_prompt for a in node.call.args if (i := fields.get(a.name)) and i.lineage}
    if not counts:
        message = f"`{signature.name}` works on groups, and its fields are no samples of a rollout"
        found.error("RL0301", message, span=node.call.span, expected="a field made from `generate`'s outputs")
    elif group is not None and group not in counts:
        have = next(iter(counts))
        span = next(k.span for k in node.call.keywords if k.name == "group")
        found.error(
            "RL0404",
            f"`group` must be the number of samples a prompt, {have}",
            span=span,
            expected=str(have),
            found=str(group),
        )
