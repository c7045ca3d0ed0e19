"""`rldsl show` of a plan with loops, as a user types it."""

import pytest

from rldsl.cli import main

SOURCE = """algorithm dapo {
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("copy.jsonl") with batch = 4
  loop resample max 3 collect tokens, response_mask, rollout_logp, score where useful {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
  validate test every 10 {
    input prompts, answers : text[prompt] = jsonl("copy.jsonl") with batch = 8
    node rollout = actor.generate(prompts; max_new_tokens = 4, temperature = 0.0) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    metric accuracy = mean(score)
  }
}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "dapo.rl").write_text(SOURCE)
    return str(tmp_path / "dapo.rl")


@pytest.mark.parametrize("form", ["text", "mermaid", "dot"])
def test_iterations_are_shown_once_or_all(file, capsys, form):
    assert main(["show", file, "--format", form]) == 0
    once = capsys.readouterr().out
    assert "loop resample, at most 3 rounds" in once
    assert "validate test, every 10 steps" in once
    assert main(["show", file, "--format", form, "--unrolled"]) == 0
    every = capsys.readouterr().out
    assert [f"round {k} of 3" in every for k in (1, 2, 3)] == [True, True, True]
    assert "at most 3 rounds" not in every


def test_one_rank_has_no_graph(file, capsys):
    assert main(["show", file, "--rank", "3"]) == 0
    shown = capsys.readouterr().out
    assert "╭" not in shown
    assert "until resample is full" in shown
