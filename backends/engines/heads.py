"""From hidden states to log-probs, without ever holding the logits of a large batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits up to this many numbers (128 MiB in float32) are kept for the backward pass; beyond it they are made again.
KEPT_LOGITS = 1 << 25
# A product that is added to a sum of another type is made in pieces of so many numbers.
_SUMMED_AT_ONCE = 1 << 23


class _TokenLogprob(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) at chosen (state, token) pairs."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, state: Tensor, token: Tensor, temperature: float, at_once: int
    ) -> Tensor:
        out = torch.empty(len(state), dtype=torch.float32, device=hidden.device)
        chunks = _chunks(hidden, weight, state, at_once)
        normalisers = []
        kept: list[Tensor] = []
        for start, end, pairs in chunks:
            logits = (hidden[start:end] @ weight.t()).float().div_(temperature)
            normaliser = logits.logsumexp(-1)
            at = state[pairs] - start
            out[pairs] = logits[at, token[pairs]] - normaliser[at]
            normalisers.append(normaliser)
            if len(chunks) == 1:
                kept.append(logits)
            del logits  # or those of the next piece would be made beside them
        ctx.save_for_backward(hidden, weight, state, token, torch.cat(normalisers), *kept)
        ctx.temperature, ctx.at_once = temperature, at_once
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, weight, state, token, normaliser, *kept = ctx.saved_tensors
        chunks = _chunks(hidden, weight, state, ctx.at_once)
        grad_hidden = torch.empty_like(hidden)
        # None for a weight that stays as it is, beside adapters. Many chunks must not be summed in bfloat16.
        grad_weight: Tensor | None = None
        if ctx.needs_input_grad[1] and len(chunks) > 1:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start, end, pairs in chunks:
            logits = kept[0] if kept else (hidden[start:end] @ weight.t()).float().div_(ctx.temperature)
            at, g = state[pairs] - start, grad[pairs] / ctx.temperature
            total = torch.zeros_like(normaliser[start:end]).index_add_(0, at, g)
            # In place: nothing else reads these logits, and a second backward pass is refused by autograd.
            d = logits.sub_(normaliser[start:end, None]).exp_().mul_(-total[:, None])
            d = d.index_put_((at, token[pairs]), g, accumulate=True).to(hidden.dtype)
            grad_hidden[start:end] = d @ weight
            if grad_weight is not None:
                _add_product(grad_weight, d, hidden[start:end])
            elif ctx.needs_input_grad[1]:
                grad_weight = d.t() @ hidden
            del logits, d
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total` f32[V, H] += left[S, V].T @ right[S, H], without a second matrix of its size."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right)
        return
    rows = max(1, _SUMMED_AT_ONCE // total.shape[1])
    for start in range(0, len(total), rows):
        total[start : start + rows] += left[:, start : start + rows].t() @ right


def _chunks(hidden: Tensor, weight: Tensor, state: Tensor, at_once: int) -> list[tuple[int, int, Tensor]]:
    """(first state, one past the last, indices of the pairs there) of each piece that is projected at once."""
    size = max(1, (at_once or KEPT_LOGITS) // len(weight))
    if len(hidden) <= size:
        return [(0, len(hidden), torch.arange(len(state), device=state.device))]
    starts = range(0, len(hidden), size)
    return [(i, min(i + size, len(hidden)), ((state >= i) & (state < i + size)).nonzero()[:, 0]) for i in starts]


def token_logprob(
    hidden: Tensor, weight: Tensor, state: Tensor, token: Tensor, temperature: float, *, at_once: int = 0
) -> Tensor:
    """f32[M]: the log-prob of token id `token[m]` i64[M] after hidden state `state[m]` i64[M].

    `hidden` [S, H], `weight` [V, H] (the output embedding, no bias), logits divided by `temperature` > 0. The
    softmax is float32 whatever the inputs. Chunked over states when S * V is above `at_once`, by default
    `KEPT_LOGITS`. Differentiable, once.
    """
    apply: Any = _TokenLogprob.apply
    made: Tensor = apply(hidden, weight, state, token, temperature, at_once)
    return made
