"""A small algorithm on disk, and the command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = """algorithm tiny {
  param group : int = 4
  param kl_coef : float = 0.0

  model actor : policy = scratch(; alphabet = "0123456789+= ")
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic") with batch = 16 prompts

  node rollout : ACTOR = actor.generate(prompts; n = group, max_new_tokens = 8) -> tokens, response_mask, logp, texts
  node reward : REWARD = compute last_number(texts, answers) -> score
  node ref : REFERENCE = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage : ADVANTAGE = compute group_advantage(score; group) -> advantages
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 1e-5
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `tiny.rl` and the same with a mistake in it, `bad.rl`."""
    (tmp_path / "tiny.rl").write_text(SOURCE)
    (tmp_path / "bad.rl").write_text(SOURCE.replace("(texts, answers)", "(text, answers)"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rldsl(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`rldsl("check", "tiny.rl")` in its own process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "80"}
        return subprocess.run(
            [sys.executable, "-m", "rldsl", *arguments],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run
