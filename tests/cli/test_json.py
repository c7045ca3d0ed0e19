"""`rldsl check --json`: a line for each diagnostic, with everything that is known of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Rldsl = Callable[..., CompletedProcess[str]]

# One syntax error, an unknown name used twice, a wrong type, a minibatch of samples.
MANY = """algorithm many {
  param lr float = 1e-5
  model actor : policy = scratch(; alphabet = "01")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, mask, logp, texts
  node reward = compute exact_match(text, answers) -> score
  node length = compute exact_match(text, prompts) -> other
  node advantage = compute group_advantage(texts) -> advantages
  node update = actor.train policy_loss(tokens, mask, logp, advantages) with lr, minibatch = 8 samples
  metric m = mean(other)
}
"""
KEYS = {"severity", "code", "message", "span", "labels", "notes", "expected", "found", "fix"}
PLACE = {"file", "line", "column", "end_line", "end_column"}


@pytest.fixture
def lines(folder: Path, rldsl: Rldsl) -> list[dict[str, Any]]:
    (folder / "many.rl").write_text(MANY)
    done = rldsl("check", "many.rl", "--json")
    assert done.returncode == 1 and done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_line_has_every_key(lines: list[dict[str, Any]]) -> None:
    for one in lines:
        assert set(one) == KEYS and set(one["span"]) == PLACE
        assert one["severity"] == "error" and one["span"]["file"] == "many.rl"


def test_all_at_once_in_source_order(lines: list[dict[str, Any]]) -> None:
    said = [(d["code"], d["span"]["line"], d["span"]["column"], d["span"]["end_column"]) for d in lines]
    assert said == [
        ("RL0102", 2, 12, 17),
        ("RL0201", 6, 37, 41),
        ("RL0301", 8, 44, 49),
        ("RL0311", 9, 82, 103),
    ]


def test_what_is_known_of_each(lines: list[dict[str, Any]]) -> None:
    syntax, unknown, wrong, unit = lines
    assert syntax["message"] == "`:` is missing before `float`"
    assert unknown["fix"] == "did you mean `texts`?" and "texts" in unknown["expected"] and unknown["found"] == "text"
    (label,) = unknown["labels"]
    assert label["message"] == "here too" and (label["span"]["line"], label["span"]["column"]) == (7, 37)
    assert (wrong["expected"], wrong["found"]) == ("f32[sample]", "text[sample]")
    assert wrong["labels"][0]["span"]["line"] == 5 and wrong["labels"][0]["message"] == "`texts` is written here"
    assert (unit["expected"], unit["found"]) == ("prompts", "8 samples")
    assert [d["notes"] for d in lines] == [[]] * 4


def test_a_plan_takes_no_options_of_compilation(folder: Path, rldsl: Rldsl) -> None:
    assert rldsl("compile", "tiny.rl", "--emit", "plan.json").returncode == 0
    done = rldsl("run", "plan.json", "--set", "group=8", "--json")
    assert done.returncode == 1
    (said,) = (json.loads(line) for line in done.stderr.splitlines())
    assert said["code"] == "RL0509" and said["fix"] == "give it to `rldsl compile`"
