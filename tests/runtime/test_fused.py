"""Plans whose forwards share a pass through the layers, against the same without, and the graph as written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.packing import Layout
from rldsl.compiler.ops import InferOp
from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Plan
from tests.runtime.differential import STEPS, Outcome, Wanted, Way, alone, difference
from tests.runtime.pool import Ranks

MINE = """
import rldsl as rl


def later(response_mask: rl.Mask) -> rl.Mask:
    return response_mask & (response_mask.cumsum(1) > 1)
"""
SHARED = """use "mine.py"
algorithm shared {
  param seed : int = 3
  model actor    : policy = scratch(; alphabet = "0123456789=+ ", hidden = 32)
  model critic   : value  = shared actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 5, temperature = 0.8) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute char_accuracy(completions, answers) -> score
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node cut       = compute later(response_mask) -> later_mask
  node cut_again = compute later(later_mask) -> last_mask
  node cold      = actor.logprob(tokens, last_mask; temperature = 0.5) -> cold_logp
  node shaping   = compute kl_penalty(score, response_mask, old_logp; kl_coef = 0.0) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-2, epochs = 2
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2, epochs = 2, minibatch = 2
  metric coldness = mean(cold_logp, last_mask)
  validate test every 2 {
    input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
    node rollout = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node surprise = actor.logprob(tokens, response_mask) -> logp
    node worth    = critic.value(tokens, response_mask) -> values
    metric surprised = mean(logp, response_mask)
    metric worthy    = mean(values, response_mask)
  }
}"""
WITHOUT = frozenset({"fuse_forwards"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    rows = [{"prompts": f"{i}=", "answers": f"{i}{i}"} for i in range(8)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.rl").write_text(SHARED)
    return tmp_path / "a.rl"


def plan_of(source: Path, way: Way) -> Plan:
    return compile_file(source, way.options()).plan


def forwards(plan: Plan) -> list[str]:
    return [op.id for op in plan.ops() if isinstance(op, InferOp)]


@contextmanager
def passes() -> Iterator[list[int]]:
    """The tokens of each run of the layers that has no gradient and no cache: of a forward, not of a rollout."""
    seen: list[int] = []
    whole = Scorer.hidden

    def hidden(self: Scorer, layout: Layout, *more: Any) -> torch.Tensor:
        if not torch.is_grad_enabled() and not more:
            seen.append(layout.tokens.numel())
        return whole(self, layout, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "hidden", hidden)
        yield seen


def test_one_pass_for_all_heads_gives_the_same_run(source: Path, tmp_path: Path) -> None:
    want = Wanted.of(source)
    counts: dict[frozenset[str], int] = {}
    made: dict[frozenset[str], Outcome] = {}
    for disable in (frozenset[str](), WITHOUT):
        plan = plan_of(source, Way(disable=disable))
        with passes() as seen:
            got = made[disable] = alone(plan, tmp_path, tmp_path / f"run{len(disable)}")
        counts[disable] = len(seen)
        assert not (found := difference(got, want, plan)).bad, str(found)
    assert forwards(plan_of(source, Way())) == ["old+baseline+cold", "test.surprise+test.worth"]
    # Validated in the first step and in the last.
    assert counts == {frozenset(): STEPS * 2, WITHOUT: STEPS * 5}
    for mine, other in zip(made[frozenset()].fields, made[WITHOUT].fields, strict=True):
        for name in ("old_logp", "values", "cold_logp"):
            assert all(torch.allclose(mine[name][i], other[name][i], rtol=0, atol=1e-6) for i in other[name])


@pytest.mark.parametrize("layouts", [(), ("actor.generate : hf(dp = 1)",)], ids=["together", "rollouts on one"])
def test_two_ranks(source: Path, layouts: tuple[str, ...]) -> None:
    want = Wanted.of(source)
    with Ranks(2) as ranks:
        plan = plan_of(source, Way(ranks=2, layouts=layouts))
        assert len(forwards(plan)) == 2
        assert not (found := difference(ranks.run(plan, source.parent, source.parent / "run"), want, plan)).bad, str(
            found
        )
