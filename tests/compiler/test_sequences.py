"""Values of different sequences of tokens do not meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldsl.compiler.ops import SyncWeightsOp
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.diagnostics import DiagnosticError, Severity
from tests.compiler.programs import compiled, graph_of

HEAD = """\
algorithm mixed {
  model actor  : policy = scratch(; alphabet = "01")
  model critic : value  = copy actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute exact_match(completions, answers) -> score
  node again   = actor.generate(completions; max_new_tokens = 4) -> t2, m2, l2, c2
"""
UPDATE = """\
  node advantage = compute group_advantage(score; group = 4) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr = 0.001
"""
LOOP = """\
  loop talk max 2 carry {carried} {{
    node tool  = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> {written}, said
    node last  = compute last_said(completions, said, done) -> completions
  }}
"""
MIXED = {
    "a training": UPDATE.replace("response_mask", "response_mask = m2"),
    "a pass": "  node old = actor.logprob(t2, response_mask) -> old_logp\n"
    + UPDATE.replace("= rollout_logp", "= old_logp"),
    "a metric": "  metric far = mean(rollout_logp, m2)\n" + UPDATE,
    "a function": "  node kl = compute kl_penalty(score, response_mask, rollout_logp, l2; kl_coef = 0.1) -> rewards\n"
    "  metric penalty = mean(rewards)\n" + UPDATE,
    "a loop that carries a part": LOOP.format(carried="tokens, completions", written="tokens, m3, l3") + UPDATE,
}
ALIKE = {
    "two rollouts": "  node old = actor.logprob(t2, m2) -> old2\n  metric far = mean(old2, m2)\n" + UPDATE,
    "a loop that carries all": LOOP.format(
        carried="tokens, response_mask, rollout_logp, completions", written="tokens, response_mask, rollout_logp"
    )
    + UPDATE,
    "rows put out together": "  output both = tokens, t2\n" + UPDATE,
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_is_an_error_of_the_user(name: str) -> None:
    with pytest.raises(DiagnosticError) as raised:
        compiled(HEAD + MIXED[name] + "}\n")
    found = [d for d in raised.value.diagnostics if d.severity is Severity.ERROR]
    assert {d.code for d in found} == {"RL0310"}
    assert all("different sequences" in d.message and d.span is not None for d in found)
    assert not any("talk." in d.message for d in found)


@pytest.mark.parametrize("name", ALIKE)
def test_what_goes_together_compiles(name: str) -> None:
    assert compiled(HEAD + ALIKE[name] + "}\n").plan.programs


def test_a_validation_with_older_weights_gets_those_of_the_step_before() -> None:
    text = """  validate test every 10 {
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 8
    node ask   = actor.generate(prompts; max_new_tokens = 4, staleness = 1) -> tokens, response_mask, rollout_logp, said
    node judge = compute exact_match(said, answers) -> score
    metric accuracy = mean(score)
  }
}
"""
    ops = compiled(HEAD + UPDATE + text).plan.ops()
    assert [op.guard for op in ops if isinstance(op, SyncWeightsOp) and op.staleness] == [None]


MINE = """\
import rldsl as rl


def summed_row(completions: str, answers: str, *, reduce: rl.Reduce) -> float:
    return 1.0


def summed_loss(logp: rl.PerToken, response_mask: rl.Mask, advantages: rl.PerSample, *, reduce: rl.Reduce) -> rl.TokenLoss:
    return rl.TokenLoss(logp)


def tokens_of_groups(score: rl.PerSample, mask: rl.Mask, *, group: int) -> "Annotated[Tensor, 'f32[prompt, token]']": ...
"""
OWN = {
    "a function of one row that sums": ("  node own = compute summed_row(completions, answers) -> x\n", "RL0305"),
    "a loss that sums": (
        "  node own = actor.train summed_loss(tokens, response_mask, advantages) with lr = 0.1\n",
        "RL0305",
    ),
    "groups with tokens": (
        "  node own = compute tokens_of_groups(score, response_mask; group = 4) -> x\n  output rows = x\n",
        "RL0301",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_no_plan_could_run_is_an_error_of_the_user(tmp_path: Path, name: str) -> None:
    statement, code = OWN[name]
    (tmp_path / "mine.py").write_text(MINE)
    graph = graph_of('use "mine.py"\n' + HEAD + UPDATE + statement + "}\n")
    with pytest.raises(DiagnosticError) as raised:
        compile_graph(graph, Options(), source_dir=tmp_path)
    assert code in {d.code for d in raised.value.diagnostics}
