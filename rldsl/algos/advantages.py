"""Advantages and token rewards. Rows are padded on the right; only places in `response_mask` mean anything."""

from __future__ import annotations

import torch
from torch import Tensor

from rldsl.types import Mask, PerPrompt, PerSample, PerToken, PromptFlag, Reduce


def _grouped(score: Tensor, group: int) -> Tensor:
    """f32[rows] as f32[prompts, group]: the samples of a prompt lie next to each other."""
    if len(score) % group:
        raise ValueError(f"{len(score)} scores do not divide into groups of {group}")
    return score.view(-1, group)


def _spread(grouped: Tensor) -> Tensor:
    """bool[prompts]: not all scores equal. Exact, unlike a standard deviation above 0."""
    return grouped.amax(1) > grouped.amin(1)


def group_advantage(score: PerSample, *, group: int, eps: float = 1e-4, scale: bool = True) -> PerSample:
    """GRPO's advantage (arXiv 2402.03300, sec. 4.1.2): the score less its group's mean, over the group's spread.

    `score` f32[rows] holds the `group` samples of one prompt next to each other. The spread is the unbiased
    standard deviation plus `eps`; `scale=False` leaves it out (Dr. GRPO, arXiv 2503.20783). Exactly 0 where all
    scores of a group are equal, so that such rows can be skipped. Raises ValueError if rows do not divide.
    """
    grouped = _grouped(score, group)
    centred = grouped - grouped.mean(1, keepdim=True)
    if scale:
        centred = centred / (grouped.std(1, keepdim=True, correction=min(1, group - 1)) + eps)
    # The mean of equal floats may be off by a rounding, which dividing by eps would blow up.
    return torch.where(_spread(grouped)[:, None], centred, 0.0).view(-1)


def rloo_advantage(score: PerSample, *, group: int) -> PerSample:
    """RLOO's advantage (arXiv 2402.14740): the score less the mean score of the others of its group.

    `score` f32[rows] holds the `group` samples of one prompt next to each other. Exactly 0 where all scores of a
    group are equal. Raises ValueError for a group of 1, which has no others, and if rows do not divide.
    """
    if group < 2:
        raise ValueError("leave-one-out needs at least 2 samples of a prompt: set the rollout's n")
    grouped = _grouped(score, group)
    others = (grouped.sum(1, keepdim=True) - grouped) / (group - 1)
    return torch.where(_spread(grouped)[:, None], grouped - others, 0.0).view(-1)


def baseline_advantage(score: PerSample, baseline: PerSample) -> PerSample:
    """ReMax's advantage (arXiv 2310.10505): the score less that of the prompt's greedy answer.

    Both f32[rows]; a baseline of one number a prompt is repeated for the prompt's samples before it comes here.
    """
    return score - baseline


def group_mean(score: PerSample, *, group: int) -> PerPrompt:
    """The mean score of each prompt's `group` samples, which lie next to each other: f32[rows] to f32[prompts].

    Raises ValueError if rows do not divide.
    """
    return _grouped(score, group).mean(1)


def has_spread(score: PerSample, *, group: int) -> PromptFlag:
    """Whether the scores of a prompt's `group` samples differ, bool[prompts]: those prompts have something to teach.

    The condition of DAPO's dynamic sampling (arXiv 2503.14476, eq. 11), for scores of any values. `score` f32[rows]
    holds the samples of one prompt next to each other. Raises ValueError if rows do not divide.
    """
    return _spread(_grouped(score, group))


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


def discounted_returns(
    rewards: PerToken, response_mask: Mask, *, gamma: float = 1.0, whiten: bool = True, reduce: Reduce
) -> PerToken:
    """The return of each token, G_t = r_t + gamma * G_{t+1}: what it and the response tokens after it are paid.

    With `gamma` 1 and `whiten`, on the rewards of `kl_penalty`, the advantage of REINFORCE++ (arXiv 2501.03262): the
    score less the KL still to come, brought to mean 0 and variance 1 over the response tokens of all ranks.
    All f32[rows, tokens]; 0 outside `response_mask`, whose tokens are no steps.
    """
    mask = response_mask.to(rewards.dtype)
    returns = torch.zeros_like(rewards)
    later = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        later = torch.where(response_mask[:, t], rewards[:, t] + gamma * later, later)
        returns[:, t] = later
    returns = returns * mask
    return _whitened(returns, mask, reduce) if whiten else returns


def distillation_advantage(student_logp: PerToken, teacher_logp: PerToken, response_mask: Mask) -> PerToken:
    """log teacher - log student of each token that the student sampled: minus its sample of KL(student, teacher).

    On-policy distillation with the reverse KL (arXiv 2306.13649), the student's log-probs taken as constants.
    All f32[rows, tokens]; 0 outside `response_mask`.
    """
    return torch.where(response_mask, teacher_logp - student_logp, 0.0)


def overlong_penalty(response_mask: Mask, *, limit: int, buffer: int) -> PerSample:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), to be added to the score; f32[rows] in [-1, 0].

    0 for a response of up to `limit - buffer` tokens, then falling in a straight line to -1 at `limit`, and -1 beyond.
    The length of a row is its number of True in `response_mask`. Raises ValueError unless 0 < buffer <= limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"the buffer must be between 1 and the limit of {limit} tokens, and is {buffer}")
    length = response_mask.sum(1).float()
    return ((limit - buffer - length) / buffer).clamp(-1.0, 0.0)


def sum_scores(a: PerSample, b: PerSample) -> PerSample:
    """a + b, row by row: f32[rows]."""
    return a + b
