"""Losses against float64 loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch

from rldsl.algos.losses import policy_loss, value_loss


def tensors(count: int, seed: int = 0, shape: tuple[int, int] = (3, 5)) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) * 0.5 for _ in range(count)]


def ppo(logp: float, old: float, advantage: float, low: float, high: float) -> float:
    """1707.06347, eq. 7, negated."""
    ratio = math.exp(logp - old)
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


@pytest.mark.parametrize("high", [None, 0.5])
@pytest.mark.parametrize("per_sample", [False, True])
def test_ppo_clip_as_the_paper_has_it(high: float | None, per_sample: bool):
    logp, old, advantages = tensors(3)
    if per_sample:
        advantages = advantages[:, 0]
    made = policy_loss(logp, torch.ones(3, 5, dtype=torch.bool), old, advantages, clip=0.1, clip_high=high)
    for i in range(3):
        for t in range(5):
            a = float(advantages[i] if per_sample else advantages[i, t])
            want = ppo(float(logp[i, t]), float(old[i, t]), a, 0.1, 0.1 if high is None else high)
            assert float(made.loss[i, t]) == pytest.approx(want, rel=1e-12)
    ratio = (logp - old).exp()
    assert torch.allclose(made.metrics["kl"], ratio - 1 - ratio.log())
    assert 0 < float(made.metrics["clip_fraction"].mean()) < 1


def test_gradient_is_zero_where_clipping_binds():
    logp = torch.tensor([[math.log(2.0), math.log(0.5)]], dtype=torch.float64, requires_grad=True)
    old, up = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    policy_loss(logp, old.bool(), old, up, clip=0.2).loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[0.0, 0.0]]
    logp.grad = None
    policy_loss(logp, old.bool(), old, -up, clip=0.2).loss.sum().backward()
    assert torch.allclose(logp.grad, torch.tensor([[2.0, -0.5]], dtype=torch.float64))


def test_kl_to_the_reference_is_k3_with_its_gradient():
    logp, old, ref, advantages = tensors(4)
    logp.requires_grad_()
    mask = torch.ones(3, 5, dtype=torch.bool)
    plain = policy_loss(logp, mask, old, advantages).loss
    made = policy_loss(logp, mask, old, advantages, ref_logp=ref, kl_coef=0.3)
    r = (ref - logp).exp()
    want = r - r.log() - 1  # 2402.03300, eq. 4
    assert torch.allclose(made.loss - plain, 0.3 * want)
    assert torch.allclose(made.metrics["ref_kl"], want)
    (gradient,) = torch.autograd.grad((made.loss - plain).sum(), logp)
    assert torch.allclose(gradient, 0.3 * (1 - r))


def test_truncated_importance_sampling_scales_the_surrogate():
    logp, old, rollout, advantages = tensors(4)
    mask = torch.ones(3, 5, dtype=torch.bool)
    plain = policy_loss(logp, mask, old, advantages, rollout)
    made = policy_loss(logp, mask, old, advantages, rollout, tis_cap=1.2)
    assert torch.allclose(made.loss, plain.loss * (old - rollout).exp().clamp(max=1.2))
    assert torch.allclose(made.metrics["rollout_gap"], (old - rollout).abs())
    assert torch.equal(plain.loss, policy_loss(logp, mask, old, advantages).loss)


def test_value_loss_is_clipped():
    value, values, returns = tensors(3)
    made = value_loss(value, torch.ones(3, 5, dtype=torch.bool), values, returns, value_clip=0.2)
    for v, old, target, got in zip(*(x.flatten().tolist() for x in (value, values, returns, made.loss)), strict=True):
        clipped = old + min(max(v - old, -0.2), 0.2)
        assert got == pytest.approx(0.5 * max((v - target) ** 2, (clipped - target) ** 2), rel=1e-12)
    plain = value_loss(value, values.bool(), values, returns, value_clip=None)
    assert torch.allclose(plain.loss, 0.5 * (value - returns) ** 2)
    assert torch.allclose(plain.metrics["value_error"], (value - returns).abs())
