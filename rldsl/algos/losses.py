"""Losses, unreduced: the engine averages them by global counts, so they hold for any micro-batch and any ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from rldsl.types import Mask, PerSample, PerToken, TokenLoss, vanishes_where_zero


def _per_token(advantages: Tensor) -> Tensor:
    """f32[rows] becomes f32[rows, 1], so that it spreads over tokens; f32[rows, tokens] stays."""
    return advantages[:, None] if advantages.dim() == 1 else advantages


def _k3(log_ratio: Tensor) -> Tensor:
    """Schulman's k3: for x ~ q, with log_ratio = log p(x) - log q(x): an unbiased estimate >= 0 of KL(q, p)."""
    return torch.expm1(log_ratio) - log_ratio


@vanishes_where_zero("advantages", unless=("ref_logp",))
def policy_loss(
    logp: PerToken,
    response_mask: Mask,
    old_logp: PerToken,
    advantages: PerSample | PerToken,
    rollout_logp: PerToken | None = None,
    ref_logp: PerToken | None = None,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl_coef: float = 0.0,
    tis_cap: float | None = None,
) -> TokenLoss:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), per token, to be minimised.

    The ratio of new to old policy is clipped to [1 - clip, 1 + clip_high]; `clip_high` defaults to `clip`
    (DAPO, arXiv 2503.14476, sets it higher). `advantages` is one number a sample (GRPO, arXiv 2402.03300) or a token.
    With `ref_logp`, `kl_coef` times the k3 estimate of KL(policy, reference) is added (eq. 4 of the same).
    With `rollout_logp` and `tis_cap`, each token is weighted by min(old policy / sampler, tis_cap): truncated
    importance sampling, for samplers whose log-probs are not quite the trainer's.

    Metrics: `kl` (old to new, k3), `clip_fraction`, `ref_kl` with `ref_logp`, and with `rollout_logp`
    `rollout_gap`, |old_logp - rollout_logp|. All f32[rows, tokens]; nothing outside `response_mask` is meaningful.
    """
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    weight = _per_token(advantages)
    plain, clipped = ratio * weight, ratio.clamp(1.0 - clip, 1.0 + high) * weight
    loss = -torch.minimum(plain, clipped)
    metrics = {"kl": _k3(log_ratio.detach()), "clip_fraction": (clipped < plain).to(loss.dtype)}
    if rollout_logp is not None:
        metrics["rollout_gap"] = (old_logp - rollout_logp).abs()
        if tis_cap is not None:
            loss = loss * (old_logp - rollout_logp).exp().clamp(max=tis_cap)
    if ref_logp is not None:
        ref_kl = _k3(ref_logp - logp)
        metrics["ref_kl"] = ref_kl.detach()
        loss = loss + kl_coef * ref_kl
    return TokenLoss(loss, metrics)


@vanishes_where_zero("advantages")
def gspo_loss(
    logp: PerToken,
    response_mask: Mask,
    old_logp: PerToken,
    advantages: PerSample,
    *,
    clip: float = 3e-4,
    clip_high: float = 4e-4,
) -> TokenLoss:
    """GSPO's clipped surrogate (arXiv 2507.18071, eq. 5 and 7), to be minimised, with `aggregate = "sequence_mean"`.

    One ratio a response, s = exp(mean over its tokens of logp - old_logp), clipped to [1 - clip, 1 + clip_high]; the
    defaults are the paper's (sec. 5.1). Every token of a response holds -min(s * A, clipped s * A), so that the mean
    over a response is the paper's term and the mean over responses its objective.

    `advantages` f32[rows]. Metrics: `kl` (old to new, k3, per token) and `clip_fraction` (of responses).
    All f32[rows, tokens]; nothing outside `response_mask` is meaningful.
    """
    log_ratio = torch.where(response_mask, logp - old_logp, 0.0)
    length = response_mask.sum(1).clamp(min=1)
    ratio = (log_ratio.sum(1) / length).exp()
    plain, clipped = ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip_high) * advantages
    loss = -torch.minimum(plain, clipped)[:, None].expand_as(logp)
    fraction = (clipped < plain).to(loss.dtype)[:, None].expand_as(logp)
    return TokenLoss(loss, {"kl": _k3(log_ratio.detach()), "clip_fraction": fraction})


@vanishes_where_zero("advantages")
def reinforce_loss(logp: PerToken, response_mask: Mask, advantages: PerSample | PerToken) -> TokenLoss:
    """-A * logp of each token, to be minimised: its gradient is minus the policy gradient (REINFORCE, Williams 1992).

    For samples of the very policy that is trained: one epoch, one minibatch. `advantages` is one number a sample or a
    token. f32[rows, tokens]; nothing outside `response_mask` is meaningful.
    """
    return TokenLoss(-_per_token(advantages) * logp)


def value_loss(
    value: PerToken, response_mask: Mask, values: PerToken, returns: PerToken, *, value_clip: float | None = 0.2
) -> TokenLoss:
    """Half the squared error to `returns`, clipped as PPO implementations do (arXiv 2005.12729, sec. 3).

    0.5 * max((value - returns)^2, (clipped - returns)^2), where `clipped` keeps `value` within `value_clip` of
    `values`, the critic's output before this batch; None does not clip. All f32[rows, tokens].
    Metrics: `value_error` |value - returns| and `value_clip_fraction`.
    """
    error = (value - returns).square()
    metrics = {"value_error": (value - returns).detach().abs()}
    if value_clip is not None:
        clipped = values + (value - values).clamp(-value_clip, value_clip)
        clipped_error = (clipped - returns).square()
        # Within the clip the two differ by rounding.
        beyond = (value - values).abs() > value_clip
        metrics["value_clip_fraction"] = (beyond & (clipped_error > error)).to(error.dtype)
        error = torch.maximum(error, clipped_error)
    return TokenLoss(0.5 * error, metrics)
