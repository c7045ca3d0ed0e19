"""Drawing tokens from logits, so that a row's draws depend on nothing but who it is."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import pad

from rldsl.compiler.ops import ExtendOp, GenerateOp

SamplingOp = GenerateOp | ExtendOp
"""Both say alike how tokens are sampled: `max_new_tokens`, `temperature`, `top_p`, `top_k`."""

_BLOCK = 256


def uniforms(seed: int, rollout: str, step: int, ids: Tensor, count: int) -> Tensor:
    """f64[rows, count] in [0, 1): each row's draws depend on (seed, rollout, step, its id) alone.

    So on no number of ranks, and on no other row of the batch; and two rollouts of a step, each with a name of its
    own, draw independently. Any `seed` will do.
    """
    rows = [torch.empty(0, count, dtype=torch.float64)]
    for each in ids.tolist():
        digest = hashlib.sha256(f"{seed}/{rollout}/{step}/{each}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        rows.append(torch.rand(1, count, dtype=torch.float64, generator=generator))
    return torch.cat(rows)


def draw(logits: Tensor, uniform: Tensor, op: SamplingOp) -> tuple[Tensor, Tensor]:
    """Token ids i64[rows] and their log-probs f32[rows]: `logits` [rows, V], drawn by the inverse of the CDF.

    Temperature 0 takes the likeliest token. Log-probs are of the distribution at `op.temperature` (1 if 0) before
    `top_k` and `top_p` cut it, as a later `logprob` computes them.
    """
    logits = logits.float() / (op.temperature or 1.0)
    logprobs = logits.log_softmax(-1)
    greedy = op.temperature == 0.0
    token = logits.argmax(-1) if greedy else _inverse(_cut(logprobs.exp(), op), uniform)
    return token, logprobs.gather(-1, token[:, None])[:, 0]


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """i64[rows]: the first place where the running sum of `weights` [rows, V] passes `uniform` f64[rows] of the whole.

    First among blocks, then within one: a running sum over a large vocabulary is slow. In float64, or the rare
    tokens at its end would be lost.
    """
    rows, vocabulary = weights.shape
    blocks = pad(weights, (0, -vocabulary % _BLOCK)).view(rows, -1, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    below = sums.cumsum(-1)
    target = uniform[:, None] * below[:, -1:]
    block = torch.searchsorted(below, target, right=True).clamp_(max=below.shape[1] - 1)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(within, target - (below - sums).gather(1, block), right=True)
    # Two sums of the same weights may differ in their last bit; the place after them is then no token.
    return (block * _BLOCK + place.clamp_(max=_BLOCK - 1)).clamp_(max=vocabulary - 1)[:, 0]


def _cut(weights: Tensor, op: SamplingOp) -> Tensor:
    """0 for tokens outside the `top_k` likeliest, and outside the fewest likeliest that together have `top_p`."""
    if op.top_k > 0 and op.top_k < weights.shape[-1]:
        least = weights.topk(op.top_k, -1).values[:, -1:]
        weights = weights.where(weights >= least, 0.0)
    if op.top_p < 1.0:
        ordered, index = weights.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        total = ordered.sum(-1, keepdim=True)
        weights = torch.zeros_like(weights).scatter(-1, index, ordered.where(before < op.top_p * total, 0.0))
    return weights
