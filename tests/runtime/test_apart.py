"""Phases on ranks of their own, fields in several layouts at once, collections of which ranks hold copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldsl.compiler.ops import CollectOp, ReshardOp
from rldsl.compiler.pipeline import compile_file
from rldsl.diagnostics import DiagnosticError
from tests.runtime.differential import Wanted, Way, difference
from tests.runtime.pool import Ranks
from tests.runtime.random_programs import write
from tests.runtime.test_random_programs import correct

HEAD = """\
algorithm apart {
  model actor     : policy = scratch(; alphabet = "0123=", hidden = 16, layers = 1, heads = 2)
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
"""
SCORED = (
    HEAD
    + """\
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp; kl_coef = 0.1) with lr = 0.01
  metric length  = max(ref_logp, response_mask)
  output rows    = completions, score
}
"""
)
COLLECTED = (
    HEAD
    + """\
  loop resample max 3 collect tokens, response_mask, rollout_logp, score where useful until 4 prompts {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute char_accuracy(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.01
}
"""
)


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as pool:
        yield pool


@pytest.mark.parametrize(
    "layouts",
    [
        ("actor.train : fsdp() on 0..1", "reference.infer : fsdp() on 1..2", "actor.generate : hf() on 0"),
        ("actor.train : fsdp() on 1..2", "reference.infer : fsdp() on 0", "reward on 0..1", "length on 2"),
    ],
)
def test_fields_in_several_layouts_are_the_same_rows(tmp_path: Path, ranks: Ranks, layouts: tuple[str, ...]) -> None:
    source = write(tmp_path, SCORED)
    plan = compile_file(source, Way(ranks=3, layouts=layouts).options()).plan
    assert any(op.keeps for op in plan.ops() if isinstance(op, ReshardOp))
    found = difference(ranks.run(plan, tmp_path, tmp_path / "run"), Wanted.of(source), plan)
    assert not found.bad, found


@pytest.mark.parametrize(
    "layouts",
    [
        ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2"),
        ("actor.train : fsdp() on 1", "actor.generate : hf() on 0..1", "resample.reward on 2"),
    ],
)
def test_copies_of_what_a_loop_keeps(tmp_path: Path, ranks: Ranks, layouts: tuple[str, ...]) -> None:
    """Three ranks count, and 8 prompts do not divide over three: each has them all."""
    source = write(tmp_path, COLLECTED)
    plan = compile_file(source, Way(ranks=3, layouts=layouts).options()).plan
    assert {op.group for op in plan.ops() if isinstance(op, CollectOp)} == {"ranks0-2-tp3"}
    found = difference(ranks.run(plan, tmp_path, tmp_path / "run"), Wanted.of(source), plan)
    assert not found.bad, found


def test_random_programs_apart(tmp_path: Path, ranks: Ranks) -> None:
    layouts = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 1..2")
    ran = 0
    for seed, source in correct(range(100, 106), tmp_path):
        try:
            plan = compile_file(source, Way(ranks=3, layouts=layouts).options()).plan
        except DiagnosticError:  # its batch does not divide over so many ranks
            continue
        found = difference(ranks.run(plan, source.parent, source.parent / "run"), Wanted.of(source), plan)
        assert not found.bad, f"seed {seed}: {found}"
        ran += 1
    assert ran >= 2
