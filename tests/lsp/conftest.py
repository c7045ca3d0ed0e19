"""A folder with an algorithm that uses nearly all of the language, what it imports and the functions it uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rldsl.lsp.view import View, analyse

BASE = """algorithm base {
  param group : int = 4 in [2, 64]
  model actor : policy = scratch(; alphabet = "01=")
}
"""
MINE = '''import rldsl as rl


def brevity(completions: str, *, weight: float = 1.0) -> float:
    """Short answers are worth more.

    Nothing else is.
    """
    return weight / (1 + len(completions))
'''
MAIN = """import "base.rl"
use "mine.py"

# A comment with = names -> in it.
algorithm main {
  param turns : int   = 3 in [1, 8]
  param lr    : float = 0.001

  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8 prompts

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max turns carry tokens, response_mask, rollout_logp, completions {
    node tool = compute calculator(completions) -> observation, done
    node act  = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp when turns > 1
  node short     = compute brevity(completions; weight = 0.5) -> score
  metric brief   = mean(score)
  output samples = prompts, completions, score with every = 10
  node advantage = compute group_advantage(score) -> advantages after short
  node update    = actor.train policy_loss(tokens, response_mask, advantages, ref_logp?, old_logp = rollout_logp) with lr

  validate test every 10 {
    input questions, truth : text[prompt] = jsonl("test.jsonl") with batch = 8
    node greedy = actor.generate(questions; max_new_tokens = 4, temperature = 0) -> tokens, response_mask, rollout_logp, completions
    node right  = compute exact_match(completions, truth) -> score
    metric brief = mean(score)
  }
}

deploy {
  cluster 2 x cpu
  actor.generate : hf(dp = 2)
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.rl").write_text(BASE)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "main.rl").write_text(MAIN)
    return tmp_path


@pytest.fixture
def view(folder: Path) -> View:
    """`main.rl`, analysed."""
    path = folder / "main.rl"
    return View.of(path, MAIN, analyse(path, MAIN).module)


@pytest.fixture
def edited(folder: Path, view: View) -> Callable[[str], View]:
    """`main.rl` with another text, which has not been analysed: what is known is of the text before."""
    return lambda text: View.of(folder / "main.rl", text, view.module)


def at(needle: str, text: str = MAIN) -> int:
    """The offset of `|` in `needle`, which must stand once in `text` without it."""
    before, mark, after = needle.partition("|")
    assert mark and text.count(before + after) == 1, f"{text.count(before + after)} times: {needle}"
    return text.index(before + after) + len(before)
