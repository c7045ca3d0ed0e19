"""Sequence parallelism beside tp, put into transformers' modules for `bench/memory_oracle.py`.

Between the matrices of a layer a rank has a tp-th of the places (arXiv 2205.05198). Matrices that are cut by outputs
gather these, keep their own part alone, and gather again in the backward pass; those that are cut by inputs scatter the
sum of what they make. Which places a rank has is nothing that memory depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed._functional_collectives as collectives
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear


def _gather(part: Tensor, group: Any) -> Tensor:
    """[B, n, H] of each rank as [B, ranks x n, H]."""
    made = collectives.wait_tensor(collectives.all_gather_tensor(part.flatten(0, 1), 0, group))
    return made.view(len(part), -1, part.shape[-1])


def _scatter(whole: Tensor, group: Any) -> Tensor:
    made = collectives.wait_tensor(collectives.reduce_scatter_tensor(whole.flatten(0, 1), "sum", 0, group))
    return made.view(len(whole), -1, whole.shape[-1])


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _gather(part, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _scatter(gradients[0], ctx.group), None


class _Scattered(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _scatter(whole, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gather(gradients[0], ctx.group), None


class _ByColumns(Function):
    """A matrix of gathered places, of which it keeps its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, weight: Tensor, bias: Tensor | None, group: Any) -> Tensor:
        ctx.group, ctx.biased = group, bias is not None
        ctx.save_for_backward(part, weight)
        return linear(_gather(part, group), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        part, weight = ctx.saved_tensors
        flat, whole = gradients[0].flatten(0, 1), _gather(part, ctx.group)
        below = _scatter(gradients[0] @ weight, ctx.group)
        return below, flat.t() @ whole.flatten(0, 1), flat.sum(0) if ctx.biased else None, None


def spread(module: Any, group: Any, *, first: bool, last: bool) -> None:
    """Make a dense decoder work so on `group`; the first stage alone has an embedding, the last one a head."""
    if first:
        _then_scatter(module.model.embed_tokens, group)
    for layer in module.model.layers:
        _attention(layer.self_attn, group)
        for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj):
            _by_columns(matrix, group, lambda part: part)
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            _then_scatter(matrix, group)
    if last:
        norm = module.model.norm.forward
        module.model.norm.forward = lambda part: _Gathered.apply(norm(part), group)


def _then_scatter(module: Any, group: Any) -> None:
    whole = module.forward
    module.forward = lambda given: _Scattered.apply(whole(given), group)


def _by_columns(matrix: Any, group: Any, part: Callable[[Tensor], Tensor]) -> None:
    matrix.forward = lambda given: _ByColumns.apply(part(given), matrix.weight, matrix.bias, group)


def _attention(module: Any, group: Any) -> None:
    """Its matrices take this rank's places; all else in it works with the shape of all of them."""
    original, given = module.forward, {}

    def forward(hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        given["part"] = hidden_states
        batch, places, width = hidden_states.shape
        shape = torch.empty(1, 1, 1, dtype=hidden_states.dtype).expand(batch, places * group.size(), width)
        made = original(shape, *arguments, **options)
        given.clear()
        return made

    module.forward = forward
    for matrix in (module.q_proj, module.k_proj, module.v_proj):
        _by_columns(matrix, group, lambda _: given["part"])
