"""Losses against float64 loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.algos.losses import gspo_loss, policy_loss, reinforce_loss, value_loss
from rldsl.compiler.signature import Vanishing, library_signature


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


def gspo(logp: list[list[float]], old: list[list[float]], advantages: list[float], low: float, high: float) -> float:
    """2507.18071, eq. 5 and 7, negated: the mean over responses; rows hold response tokens only."""
    terms = []
    for new, was, a in zip(logp, old, advantages, strict=True):
        s = math.exp(sum(n - o for n, o in zip(new, was, strict=True)) / len(new))
        terms.append(min(s * a, min(max(s, 1 - low), 1 + high) * a))
    return -sum(terms) / len(terms)


def sequence_mean(loss: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the engine makes of a loss under `aggregate = "sequence_mean"`."""
    return (torch.where(mask, loss, 0.0).sum(1) / mask.sum(1)).mean()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), clip=st.floats(0.01, 0.9))
def test_gspo_is_the_papers_objective(seed: int, lengths: list[int], clip: float):
    shape = (len(lengths), 6)
    mask = torch.tensor([[t < n for t in range(6)] for n in lengths])
    logp, old, advantages = tensors(3, seed, shape)
    advantages = advantages[:, 0]
    logp.requires_grad_()
    made = gspo_loss(logp, mask, old, advantages, clip=clip, clip_high=2 * clip)
    rows = [[x[i][mask[i]].tolist() for i in range(len(lengths))] for x in (logp, old)]
    want = gspo(rows[0], rows[1], advantages.tolist(), clip, 2 * clip)
    assert float(sequence_mean(made.loss, mask).detach()) == pytest.approx(want, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(sequence_mean(made.loss, mask), logp)
    assert not gradient[~mask].any()
    for i, n in enumerate(lengths):  # by hand: the weight of a token is -s * A / (rows * length) unless clipped
        s = math.exp(sum(a - b for a, b in zip(rows[0][i], rows[1][i], strict=True)) / n)
        a = float(advantages[i])
        binds = (a > 0 and s > 1 + 2 * clip) or (a < 0 and s < 1 - clip)
        slope = 0.0 if binds else -s * a / (len(lengths) * n)
        assert gradient[i][mask[i]].tolist() == pytest.approx([slope] * n, rel=1e-9, abs=1e-12)


def test_gspo_metrics():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    logp = torch.tensor([[1.0, 1.0, math.nan], [0.0, 0.0, 0.0]], dtype=torch.float64)
    made = gspo_loss(logp, mask, torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    assert made.metrics["clip_fraction"].tolist() == [[1.0] * 3, [0.0] * 3]
    assert made.metrics["kl"][0, :2].tolist() == pytest.approx([math.e - 2] * 2)
    assert made.loss.shape == (2, 3) and bool(made.loss.isfinite().all())


@pytest.mark.parametrize("per_sample", [False, True])
def test_reinforce_by_finite_differences(per_sample: bool):
    logp, advantages = tensors(2)
    advantages = advantages[:, 0] if per_sample else advantages
    mask = torch.ones(3, 5, dtype=torch.bool)
    logp.requires_grad_()
    made = reinforce_loss(logp, mask, advantages)
    (gradient,) = torch.autograd.grad(made.loss.sum(), logp)
    step = 1e-4
    for i in range(3):
        for t in range(5):
            a = float(advantages[i] if per_sample else advantages[i, t])
            assert float(made.loss[i, t].detach()) == pytest.approx(-a * float(logp[i, t].detach()), rel=1e-12)
            moved = [-a * (float(logp[i, t].detach()) + d) for d in (step, -step)]
            assert float(gradient[i, t]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-8)


@pytest.mark.parametrize("name", ["gspo_loss", "reinforce_loss"])
def test_rows_without_advantage_add_no_gradient(name: str):
    """The promise, which the compiler reads, and that it holds."""
    signature = library_signature(name)
    assert signature is not None and signature.vanishing == Vanishing(field="advantages")
    logp, old = tensors(2)
    logp.requires_grad_()
    mask = torch.ones(3, 5, dtype=torch.bool)
    advantages = torch.tensor([0.0, 1.0, -0.0], dtype=torch.float64)
    if name == "gspo_loss":
        made = gspo_loss(logp, mask, old, advantages, clip=0.2)
    else:
        made = reinforce_loss(logp, mask, advantages)
    (gradient,) = torch.autograd.grad(made.loss.sum(), logp)
    assert not gradient[[0, 2]].any() and not made.loss[[0, 2]].any()
