"""Advantages and returns against float64 loops written from the papers."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rldsl.algos.advantages import (
    baseline_advantage,
    discounted_returns,
    distillation_advantage,
    gae,
    group_advantage,
    group_mean,
    has_spread,
    kl_penalty,
    overlong_penalty,
    rloo_advantage,
    sum_scores,
)


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


GROUPS = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=n, max_size=n), max_size=5)
)


def flat(groups: list[list[float]]) -> Tensor:
    return torch.tensor([s for g in groups for s in g], dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(groups=GROUPS)
def test_functions_of_groups(groups: list[list[float]]):
    """2402.14740: the others' mean as baseline; 2503.14476, eq. 11: groups in which something differs."""
    size = len(groups[0]) if groups else 2
    score = flat(groups)
    assert group_mean(score, group=size).tolist() == pytest.approx([statistics.fmean(g) for g in groups])
    assert has_spread(score, group=size).tolist() == [len(set(g)) > 1 for g in groups]
    if size == 1:
        with pytest.raises(ValueError, match="at least 2 samples"):
            rloo_advantage(score, group=size)
        return
    made = rloo_advantage(score, group=size).tolist()
    want = [s - statistics.fmean([*g[:i], *g[i + 1 :]]) for g in groups for i, s in enumerate(g)]
    assert made == pytest.approx(want, abs=1e-12)
    equal = [len(set(g)) == 1 for g in groups for _ in g]
    assert all(a == 0.0 for a, same in zip(made, equal, strict=True) if same)


def test_groups_must_divide():
    for function in (rloo_advantage, group_mean, has_spread):
        with pytest.raises(ValueError, match="groups of 4"):
            function(torch.zeros(6), group=4)


def test_differences_and_sums_of_scores():
    a, b = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.5, 0.5, 0.5])
    assert baseline_advantage(a, b).tolist() == [0.5, -0.5, 0.0]
    assert sum_scores(a, b).tolist() == [1.5, 0.5, 1.0]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), gamma=st.sampled_from([1.0, 0.9, 0.0]))
def test_discounted_returns_are_sums_of_later_rewards(data: st.DataObject, gamma: float):
    rows, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    numbers = st.lists(st.floats(-2, 2), min_size=rows * tokens, max_size=rows * tokens)
    flags = st.lists(st.booleans(), min_size=rows * tokens, max_size=rows * tokens)
    rewards = torch.tensor(data.draw(numbers), dtype=torch.float64).view(rows, tokens)
    mask = torch.tensor(data.draw(flags)).view(rows, tokens)
    made = discounted_returns(rewards, mask, gamma=gamma, whiten=False, reduce=alone)
    for row, held, got in zip(rewards, mask, made, strict=True):
        paid = row[held].tolist()
        want = [sum(gamma**k * r for k, r in enumerate(paid[t:])) for t in range(len(paid))]
        assert got[held].tolist() == pytest.approx(want, abs=1e-9)
    assert not made[~mask].any()


def test_returns_are_normalised_over_the_global_batch():
    """2501.03262: A minus its mean over the batch, over its standard deviation."""
    rewards = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw = discounted_returns(rewards, MASK, whiten=False, reduce=alone)[MASK].tolist()
    mean, spread = statistics.fmean(raw), statistics.pstdev(raw)
    made = discounted_returns(rewards, MASK, reduce=alone)
    assert made[MASK].tolist() == pytest.approx([(x - mean) / spread for x in raw], rel=1e-6)
    assert torch.allclose(discounted_returns(rewards, MASK, reduce=lambda t: 2 * t), made)
    assert not made[~MASK].any()


def test_distillation_advantage_is_a_sample_of_minus_the_reverse_kl():
    """Its mean under the student is minus KL(student, teacher), here summed over a whole vocabulary."""
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(2))
    mask = torch.ones(1, 7, dtype=torch.bool)
    made = distillation_advantage(student[None], teacher[None], mask)
    kl = sum(float(p.exp() * (p - q)) for p, q in zip(student, teacher, strict=True))
    assert float((student.exp() * made[0]).sum()) == pytest.approx(-kl, rel=1e-12)
    garbage = torch.full((1, 7), torch.nan, dtype=torch.float64)
    assert not distillation_advantage(garbage, garbage, ~mask).any()


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), limit=st.integers(1, 10), data=st.data())
def test_overlong_penalty_as_the_paper_has_it(lengths: list[int], limit: int, data: st.DataObject):
    """2503.14476, eq. 13."""
    buffer = data.draw(st.integers(1, limit))
    mask = torch.tensor([[t < n for t in range(12)] for n in lengths])
    want = []
    for n in lengths:
        if n <= limit - buffer:
            want.append(0.0)
        else:
            want.append(((limit - buffer) - n) / buffer if n <= limit else -1.0)
    assert overlong_penalty(mask, limit=limit, buffer=buffer).tolist() == pytest.approx(want)


@pytest.mark.parametrize("buffer", [0, -1, 5])
def test_overlong_penalty_refuses_a_buffer_without_room(buffer: int):
    with pytest.raises(ValueError, match="between 1 and the limit"):
        overlong_penalty(MASK, limit=4, buffer=buffer)
