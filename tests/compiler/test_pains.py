"""What users of other systems complain of, and what comes of it here. Small models, two steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rldsl.compiler.pipeline import check_file, compile_file
from rldsl.diagnostics import Severity

ROWS = [{"prompts": f"{a}+{b}=", "answers": str(a + b)} for a in range(4) for b in range(4)]
HEAD = """algorithm pains {
  param tis_cap : float = 2.0
  model actor : policy = scratch(; alphabet = "0123456789+=", hidden = 16, layers = 1)
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8 prompts
"""
ROLLOUT = """  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4, staleness = 1) -> tokens, response_mask, rollout_logp, completions
"""
REST = """  node reward = compute char_accuracy(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; tis_cap) with lr = 0.01
}
"""


def write(folder: Path, text: str, **files: str) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content)
    path = folder / "pains.rl"
    path.write_text(text)
    return path


def rldsl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "rldsl", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = rldsl(folder, "run", "pains.rl", "--steps", "2", "--run-dir", "out", "--overwrite", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return logged(folder / "out")


def test_pain_1_every_configuration_error_at_once_before_anything_starts(tmp_path: Path) -> None:
    wrong = HEAD.replace("float = 2.0", "flot = 2.0").replace("jsonl", "json") + ROLLOUT.replace("n = 4", "n = -4")
    write(tmp_path, wrong + REST.replace("char_accuracy", "char_acuracy").replace("lr = 0.01", 'lr = "0.01"'))
    checked = rldsl(tmp_path, "check", "pains.rl", "--json")
    expected = ["RL0210", "RL0209", "RL0404", "RL0204", "RL0304"]
    assert [json.loads(line)["code"] for line in checked.stdout.splitlines()] == expected
    # `run` says the same, and has then neither loaded a model nor made a folder.
    ran = rldsl(tmp_path, "run", "pains.rl", "--run-dir", "out", "--json")
    assert ran.returncode == 1 and not (tmp_path / "out").exists()
    assert [json.loads(line)["code"] for line in ran.stderr.splitlines()] == expected


@pytest.mark.parametrize(
    ("old", "new", "counts", "found"),
    [
        ("batch = 8 prompts", "batch = 32 samples", "batch", "32 samples"),
        ("n = 4", "n = 8 prompts", "n", "8 prompts"),
        ("max_new_tokens = 4", "max_new_tokens = 4 samples", "max_new_tokens", "4 samples"),
        ("lr = 0.01", "lr = 0.01, minibatch = 16 samples", "minibatch", "16 samples"),
        ("lr = 0.01", "lr = 0.01, minibatch = rows // 2", "minibatch", "16 samples"),
    ],
)
def test_pain_2_a_batch_size_says_what_it_counts(tmp_path: Path, old: str, new: str, counts: str, found: str) -> None:
    text = (HEAD + ROLLOUT + REST).replace(old, new, 1)
    if "rows //" in new:
        text = text.replace("  model", "  param rows : int = 32 samples\n  model", 1)
    (said,) = check_file(write(tmp_path, text))
    assert said.code == "RL0311" and said.found == found and said.message.startswith(f"`{counts}` counts ")


def test_pain_2_minibatches_are_counted_in_the_units_of_the_batch(tmp_path: Path) -> None:
    text = (HEAD + ROLLOUT + REST).replace("lr = 0.01", "lr = 0.01, minibatch = 3 prompts")
    (said,) = check_file(write(tmp_path, text))
    assert said.code == "RL0402" and said.expected is not None and "1, 2, 4, 8" in said.expected
    assert said.found is not None and "8 = 2 x 3 + 2" in said.found


def test_pain_8_the_gap_between_sampler_and_trainer_is_logged_and_can_be_corrected(tmp_path: Path) -> None:
    write(tmp_path, HEAD + ROLLOUT + REST)
    steps = run(tmp_path)
    gaps = [step["update/rollout_gap"] for step in steps]
    # The sampler is one step behind: the gap is that of rounding in step 0, and real afterwards.
    assert len(gaps) == 2 and gaps[0] < 1e-4 < gaps[1]
    capped = run(tmp_path, "--set", "tis_cap=0.5")
    assert capped[0]["update/rollout_gap"] == gaps[0]
    assert capped[0]["update/grad_norm"] != steps[0]["update/grad_norm"]


def test_pain_8_a_gap_that_nothing_corrects_is_a_warning(tmp_path: Path) -> None:
    text = (HEAD + ROLLOUT + REST).replace("; tis_cap)", ")").replace("  param tis_cap : float = 2.0\n", "")
    (said,) = check_file(write(tmp_path, text))
    assert said.code == "RL0457" and said.severity is Severity.WARNING
    assert said.fix is not None and "tis_cap" in said.fix


RAISES = """
def picky(completions: str, answers: str) -> float:
    return 1.0 / (int(answers) - 3)
"""


def test_pain_10_an_exception_of_a_reward_names_its_row_and_ends_the_run(tmp_path: Path) -> None:
    text = 'use "mine.py"\n' + HEAD + ROLLOUT + REST.replace("char_accuracy", "picky")
    write(tmp_path, text, mine=RAISES)
    done = rldsl(tmp_path, "run", "pains.rl", "--steps", "2", "--run-dir", "out", "--json")
    assert done.returncode == 1
    (said,) = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert said["code"] == "RL0705" and "`picky` raised ZeroDivisionError on sample " in said["message"]
    assert said["span"]["file"].endswith("mine.py") and said["span"]["line"] == 3
    assert "answers = '3'" in said["notes"]


NEW_FUNCTIONS = """\
import torch
import rldsl as rl


def rank_advantage(score: rl.PerSample, *, group: int) -> rl.PerSample:
    ranks = score.view(-1, group).argsort(1).argsort(1).float()
    return ((ranks - ranks.mean(1, keepdim=True)) / group).view(-1)


def squeezed_loss(
    logp: rl.PerToken, response_mask: rl.Mask, rollout_logp: rl.PerToken, advantages: rl.PerSample, *, width: float = 1.0
) -> rl.TokenLoss:
    ratio = (logp - rollout_logp).exp()
    squeezed = torch.tanh((ratio - 1) / width) * width
    return rl.TokenLoss(-squeezed * advantages[:, None], {"ratio": ratio.detach()})
"""
NEW_ALGORITHM = """\
use "mine.py"
algorithm squeezed {
  param width : float = 0.5 in (0, 1]
  model actor : policy = scratch(; alphabet = "0123456789+=", hidden = 16, layers = 1)
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node advantage = compute rank_advantage(score) -> advantages
  node update    = actor.train squeezed_loss(tokens, response_mask, rollout_logp, advantages; width) with lr = 0.01
}
"""


def test_pain_12_a_new_algorithm_is_thirty_lines_and_no_fork(tmp_path: Path) -> None:
    assert len((NEW_FUNCTIONS + NEW_ALGORITHM).splitlines()) <= 30
    path = write(tmp_path, NEW_ALGORITHM, mine=NEW_FUNCTIONS)
    assert compile_file(path).warnings == ()
    steps = run(tmp_path, "--set", "width=0.25")
    assert [step["step"] for step in steps] == [0, 1]
    assert all(step["update/grad_norm"] > 0 for step in steps)
    assert steps[0]["update/ratio"] == pytest.approx(1.0, abs=1e-4)  # the loss's own metric, on-policy
