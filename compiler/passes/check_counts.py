"""How many rows there are, and whether they divide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Expr, Literal
from rldsl.compiler.ir import FieldInfo, Graph, Method, Module, Node, changed
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import keyword_value, number_of, option_of
from rldsl.diagnostics import Diagnostics, Label

_TRIED = 10_000


@dataclass(frozen=True, kw_only=True)
class CheckCounts:
    """Count prompts and samples, and find every number of ranks that batches and minibatches divide by.

    Before: `tokens : i64[sample, token]`, samples of `rollout`.   After: the same, 8 for each of 16 prompts.
    """

    name: ClassVar[str] = "check_counts"

    def apply(self, module: Module, context: Context) -> Module:
        """Fields with `per_prompt`; `batches`; `divides`, of which the number of ranks must be a divisor."""
        per_prompt = _samples(module, context.found)
        fields = {
            name: changed(info, per_prompt=per_prompt.get(info.lineage or "", 1))
            for name, info in module.fields.items()
        }
        counted = replace(module, fields=fields, batches=_batches(module.graph, context.found))
        minibatches = [
            _check_minibatch(n, batch_of(counted, n), context.found)
            for n in module.graph.nodes
            if n.call.method is Method.TRAIN
        ]
        for node in module.graph.nodes:
            _check_group(node, fields, module, context.found)
        return replace(counted, divides=math.gcd(*counted.batches.values(), *minibatches))


def _samples(module: Module, found: Diagnostics) -> dict[str, int]:
    """How many samples each prompt has, by the rollout that made them."""
    per_prompt = {}
    for node in module.graph.nodes:
        if node.call.method is not Method.GENERATE:
            continue
        prompts = module.fields.get(node.call.args[0].name)
        if prompts is None or prompts.lineage is None:
            per_prompt[node.id] = int(number_of(node.call, "n"))
        elif number_of(node.call, "n") != 1:
            span = next((k.span for k in node.call.keywords if k.name == "n"), node.span)
            what = f"`{node.id}` goes on from samples, and gives one response to each"
            fix = f"take more samples where `{prompts.lineage}` makes them"
            found.error(
                "RL0405", what, span=span, expected="n = 1", found=f"n = {number_of(node.call, 'n'):g}", fix=fix
            )
    kept = {f"{b.id}.kept.{lineage}": n for b in module.graph.blocks if b.where for lineage, n in per_prompt.items()}
    return per_prompt | kept


def _value(expr: Expr) -> int:
    assert isinstance(expr, Literal) and isinstance(expr.value, int), "bind_parameters has checked it"
    return expr.value


def shown(expr: Expr, value: int) -> str:
    """The number, and what it was computed from: `batch // 2 = 8`."""
    text = expr.text if isinstance(expr, Literal) else None
    return f"{text} = {value}" if text else str(value)


def divisors(number: int) -> str:
    """Those of `number`, in order; of a huge one only those that are found at once."""
    small = [d for d in range(1, min(math.isqrt(number), _TRIED) + 1) if number % d == 0]
    large = [number // d for d in reversed(small) if d * d != number]
    return ", ".join(map(str, [*small, *(["..."] if math.isqrt(number) > _TRIED else []), *large]))


def _batches(graph: Graph, found: Diagnostics) -> dict[str | None, int]:
    """Prompts of each set: what its inputs say, which must agree; of a collection, what it collects until."""
    first: dict[str | None, Expr] = {}
    for item in graph.inputs:
        batch = first.setdefault(item.block, item.batch)
        if _value(item.batch) != _value(batch):
            labels = (Label(span=batch.span, message="as here"),) if batch.span else ()
            found.error(
                "RL0402",
                "inputs of one step must take the same number of prompts",
                span=item.span,
                expected=f"{shown(batch, _value(batch))} prompts",
                found=f"{shown(item.batch, _value(item.batch))} prompts",
                labels=labels,
            )
    batches = {name: _value(batch) for name, batch in first.items()}
    for block in graph.blocks:
        if block.where is not None and block.id in batches:
            batches[f"{block.id}.kept"] = _value(block.until) if block.until else batches[block.id]
    used = {name for n in graph.nodes for name in n.reads}
    read = {i.block for i in graph.inputs if not used.isdisjoint(i.names)}
    return {name: n for name, n in batches.items() if name in read or (name or "").endswith(".kept")} or {None: 1}


def batch_of(module: Module, node: Node) -> int:
    """Prompts, over all ranks, of the set that `node` works on."""
    info = next((i for name in node.reads if (i := module.fields.get(name))), None)
    return module.batches.get(info.prompts if info else None, 1)


def minibatch_of(node: Node, batch: int) -> int:
    """Prompts an optimiser step of a training node; the whole batch unless it says otherwise."""
    minibatch = option_of(node.call, "minibatch")
    return minibatch if isinstance(minibatch, int) else batch


def _check_minibatch(node: Node, batch: int, found: Diagnostics) -> int:
    minibatch = minibatch_of(node, batch)
    option = next((o for o in node.call.options if o.name == "minibatch"), None)
    if minibatch > 0 and batch % minibatch:
        written = f"minibatch = {shown(option.value, minibatch)}; " if option else ""
        found.error(
            "RL0402",
            f"the batch of {batch} prompts is not a whole number of minibatches of {minibatch}",
            span=option.span if option else node.span,
            expected=f"a divisor of {batch}: {divisors(batch)}",
            found=f"{written}{batch} = {batch // minibatch} x {minibatch} + {batch % minibatch}",
        )
    return max(minibatch, 1)


_COMPARING = ("rloo_advantage",)


def _check_group(node: Node, fields: Mapping[str, FieldInfo], module: Module, found: Diagnostics) -> None:
    """A function with a hyper-parameter `group` works on whole groups: it must agree with the rollout."""
    group = keyword_value(node.call.keywords, "group", None)
    signature = module.signatures.get(node.call.function or "")
    if signature is None or not signature.grouped:
        return
    counts = {i.per_prompt for a in node.call.args if (i := fields.get(a.name)) and i.lineage}
    if not counts:
        message = f"`{signature.name}` works on groups, and its fields are no samples of a rollout"
        found.error("RL0301", message, span=node.call.span, expected="a field made from `generate`'s outputs")
    elif counts == {1} and signature.module is not None and signature.name in _COMPARING:
        what = f"`{signature.name}` compares a sample with the others of its group, and there are none"
        found.error("RL0404", what, span=node.call.span, expected="n of at least 2", found="n = 1")
    elif group is not None and group not in counts:
        have = next(iter(counts))
        keyword = next(k for k in node.call.keywords if k.name == "group")
        found.error(
            "RL0404",
            f"`group` must be the number of samples a prompt, {have}",
            span=keyword.span,
            expected=str(have),
            found=shown(keyword.value, int(group)),
        )
