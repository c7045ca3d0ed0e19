"""Advantages and rewards against float64 loops written from the papers."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from rldsl.algos.advantages import gae, group_advantage, kl_penalty
from rldsl.algos.rewards import char_accuracy, exact_match, last_number, math_verify


def alone(tensor: Tensor) -> Tensor:
    return tensor


MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]], dtype=torch.bool)


def discounted(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """1506.02438, eq. 16: the sum over l of (gamma * lam)^l * delta_{t+l}."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * w - v for r, v, w in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_as_the_paper_has_it(gamma: float, lam: float):
    g = torch.Generator().manual_seed(0)
    # Garbage outside the response must not leak in.
    rewards, values = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam, whiten=False, reduce=alone)
    for i, mask in enumerate(MASK):
        want = discounted(rewards[i][mask].tolist(), values[i][mask].tolist(), gamma, lam)
        assert advantages[i][mask].tolist() == pytest.approx(want, rel=1e-12)
        assert torch.allclose(returns[i][mask], advantages[i][mask] + values[i][mask])
    assert not advantages[~MASK].any()
    assert not returns[~MASK].any()


def test_whitening_counts_all_ranks():
    g = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    raw, _ = gae(rewards, values, MASK, whiten=False, reduce=alone)
    white, _ = gae(rewards, values, MASK, whiten=True, reduce=alone)
    flat = raw[MASK].tolist()
    mean, spread = statistics.fmean(flat), statistics.pstdev(flat)
    assert white[MASK].tolist() == pytest.approx([(x - mean) / spread for x in flat], rel=1e-6)
    # The same rows three times on three "ranks": the sums triple, the result stays.
    tripled, _ = gae(rewards, values, MASK, whiten=True, reduce=lambda t: 3 * t)
    assert torch.allclose(tripled, white)


def test_whitening_nothing_is_zero():
    rewards, values = torch.ones(2, 3), torch.ones(2, 3)
    made = gae(rewards, values, torch.zeros(2, 3, dtype=torch.bool), whiten=True, reduce=alone)
    assert not any(part.any() or part.isnan().any() for part in made)


def test_group_advantage_is_the_z_score_of_its_group():
    scores = [0.0, 1.0, 1.0, 0.0, 0.25, 0.5, 1.0, 0.0]
    made = group_advantage(torch.tensor(scores), group=4, eps=1e-4)
    for start in (0, 4):
        part = scores[start : start + 4]
        want = [(s - statistics.fmean(part)) / (statistics.stdev(part) + 1e-4) for s in part]
        assert made[start : start + 4].tolist() == pytest.approx(want, rel=1e-5)
    plain = group_advantage(torch.tensor(scores), group=4, scale=False)
    assert plain[:4].tolist() == pytest.approx([-0.5, 0.5, 0.5, -0.5])


def test_equal_scores_give_exactly_zero():
    for score in (0.1, 0.7, 1 / 3):
        assert not group_advantage(torch.full((6,), score), group=6).any()
    assert group_advantage(torch.tensor([0.3, 0.9]), group=1).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="groups of 4"):
        group_advantage(torch.zeros(6), group=4)


def test_kl_penalty_pays_the_score_at_the_last_response_token():
    g = torch.Generator().manual_seed(0)
    old, ref = (torch.randn(3, 5, generator=g) for _ in range(2))
    score = torch.tensor([1.0, 2.0, 3.0])
    made = kl_penalty(score, MASK, old, ref, kl_coef=0.1)
    want = -0.1 * (old - ref) * MASK
    for i, last in enumerate((3, 4, 1)):
        want[i, last] += score[i]
    assert torch.allclose(made, want)
    bare = kl_penalty(score, MASK, old)
    assert bare.sum(1).tolist() == [1.0, 2.0, 3.0]
    assert bare.count_nonzero() == 3


def test_rewards():
    assert math_verify("The answer is \\boxed{\\frac{1}{2}}.", "0.5") == 1.0
    assert math_verify("3 + 4 = 7", "7") == 1.0
    assert math_verify("I think it is 8", "7") == 0.0
    assert math_verify("", "7") == 0.0
    assert exact_match(" 7\n", "7") == 1.0
    assert exact_match("7.", "7") == 0.0
    assert last_number("3 + 4 = 7.", "7") == 1.0
    assert last_number("7 or 8", "7") == 0.0
    assert last_number("none", "7") == 0.0
    assert last_number("it is -3", "-3") == 1.0
    assert char_accuracy("1234", "1034") == 0.75
    assert char_accuracy("12", "1234") == 0.5
    assert char_accuracy("", "") == 1.0
