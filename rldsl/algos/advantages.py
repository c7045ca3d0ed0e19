"""Advantages and token rewards. Rows are padded on the right; only places in `response_mask` mean anything."""

from __future__ import annotations

import torch
from torch import Tensor

from rldsl.types import Mask, PerSample, PerToken, Reduce


def group_advantage(score: PerSample, *, group: int, eps: float = 1e-4, scale: bool = True) -> PerSample:
    """GRPO's advantage (arXiv 2402.03300, sec. 4.1.2): the score less its group's mean, over the group's spread.

    `score` f32[rows] holds the `group` samples of one prompt next to each other. The spread is the unbiased
    standard deviation plus `eps`; `scale=False` leaves it out (Dr. GRPO, arXiv 2503.20783). Exactly 0 where all
    scores of a group are equal, so that such rows can be skipped. Raises ValueError if rows do not divide.
    """
    if len(score) % group:
        raise ValueError(f"{len(score)} scores do not divide into groups of {group}")
    grouped = score.view(-1, group)
    centred = grouped - grouped.mean(1, keepdim=True)
    if scale:
        centred = centred / (grouped.std(1, keepdim=True, correction=min(1, group - 1)) + eps)
    spread = grouped.amax(1, keepdim=True) > grouped.amin(1, keepdim=True)
    # The mean of equal floats may be off by a rounding, which dividing by eps would blow up.
    return torch.where(spread, centred, 0.0).view(-1)


def _whitened(advantages: Tensor, mask: Tensor, reduce: Reduce) -> Tensor:
    """Zero mean and unit variance over the tokens of all ranks; in float64, so that every split of rows agrees.

    All 0 where no rank has a token.
    """
    kept = advantages.double() * mask
    total = reduce(torch.stack((kept.sum(), mask.sum().double())))
    count = total[1].clamp(min=1.0)
    centred = (kept - total[0] / count) * mask
    variance = reduce(centred.square().sum()) / count
    return (centred * (variance + 1e-8).rsqrt()).to(advantages.dtype)


def gae(
    rewards: PerToken,
    values: PerToken,
    response_mask: Mask,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    reduce: Reduce,
) -> tuple[PerToken, PerToken]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16) and the returns for the critic.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}, where the value after the last
    response token is 0. Returns (advantages, returns), f32[rows, tokens], 0 outside `response_mask`; returns are
    A + V before whitening. `whiten` brings the advantages to mean 0, variance 1 over all ranks' response tokens.
    """
    mask = response_mask.to(values.dtype)
    values, rewards = values * mask, rewards * mask
    advantages = torch.zeros_like(values)
    later_value = later = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        # Tokens between two responses (a tool's, say) are no steps: what comes later reaches over them.
        inside = response_mask[:, t]
        delta = rewards[:, t] + gamma * later_value - values[:, t]
        later = torch.where(inside, delta + gamma * lam * later, later)
        later_value = torch.where(inside, values[:, t], later_value)
        advantages[:, t] = later
    advantages = advantages * mask
    returns = advantages + values
    return (_whitened(advantages, mask, reduce) if whiten else advantages), returns


def kl_penalty(
    score: PerSample,
    response_mask: Mask,
    old_logp: PerToken,
    ref_logp: PerToken | None = None,
    *,
    kl_coef: float = 0.0,
) -> PerToken:
    """Token rewards: -kl_coef * (old_logp - ref_logp), plus the score at the last response token.

    The reward of arXiv 1909.08593, eq. 2, paid token by token. f32[rows, tokens], 0 outside `response_mask`.
    Without `ref_logp` only the score is paid.
    """
    mask = response_mask.to(old_logp.dtype)
    rewards = torch.zeros_like(old_logp) if ref_logp is None else -kl_coef * (old_logp - ref_logp) * mask
    # The last True of each row is the first one of the row reversed.
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    paid = score.to(rewards.dtype) * mask.any(1)
    return rewards.scatter_add(1, last[:, None], paid[:, None])
