"""Values of different sequences of tokens do not meet."""

from __future__ import annotations

import pytest

from rldsl.compiler.plan import SyncWeightsOp
from rldsl.diagnostics import DiagnosticError, Severity
from tests.compiler.programs import compiled

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
