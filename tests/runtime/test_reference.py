"""The optimised plan and the reference interpreter, which runs the graph as written, give the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rldsl.backends import local
from rldsl.backends.data.batch import Ragged
from rldsl.backends.reference import Reference, Step
from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.unroll_loops import UnrollLoops
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.diagnostics import Diagnostics

HEAD = """
  param kl_coef : float = 0.0
  param seed : int = 3
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 32)
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl"; shuffle = true) with batch = 4
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 5, temperature = 0.8) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute char_accuracy(completions, answers) -> score
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node ref     = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
"""
GRPO = f"""algorithm grpo {{{HEAD}
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, ref_logp?; kl_coef) with lr = 1e-3
}}"""
PPO = f"""algorithm ppo {{{HEAD}
  model critic   : value = copy actor
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp?; kl_coef) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-3, epochs = 2, minibatch = 2
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-3
}}"""


MINE = """
import rldsl as rl


def differ(score: rl.PerSample, *, group: int) -> rl.PromptFlag:
    rows = score.view(-1, group)
    return rows.amax(1) > rows.amin(1)


def double(score: rl.PerSample) -> rl.PerSample:
    return score * 2


def ask(completions: str, answers: str) -> tuple[str, bool]:
    right = answers[0] in completions
    return ("" if right else "+", right)
"""
TASK = 'scratch(; alphabet = "0123456789=+ ", hidden = 32)'
INPUT = 'input prompts, answers : text[prompt] = jsonl("task.jsonl")'
SAMPLING = "max_new_tokens = 4, temperature = 0.8"
ROLLOUT = "tokens, response_mask, rollout_logp, completions"
RESAMPLE = f"""use "mine.py"
algorithm resample {{
  param seed : int = 3
  param limit : int = 4
  model actor : policy = {TASK}
  {INPUT} with batch = 4
  loop more max 3 collect tokens, response_mask, score, prompts where useful until limit {{
    node rollout = actor.generate(prompts; n = 4, {SAMPLING}) -> {ROLLOUT}
    node reward  = compute char_accuracy(completions, answers) -> score
    node spread  = compute differ(score) -> useful
    node twice   = compute double(score) -> doubled
    node again   = compute double(doubled) -> fourfold
    node late    = compute double(fourfold) -> eightfold
    metric share = mean(useful)
    metric deep  = sum(eightfold)
    output tried = eightfold, completions
  }}
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2, minibatch = 2
  metric best = max(score)
  output kept = prompts, score, tokens with every = 2
}}"""
TURNS = f"""use "mine.py"
algorithm turns {{
  param seed : int = 3
  param turns : int = 2
  model actor  : policy = {TASK}
  model critic : value = shared actor
  {INPUT} with batch = 4
  node rollout = actor.generate(prompts; n = 2, {SAMPLING}, staleness = 1) -> {ROLLOUT}
  loop talk max turns carry {ROLLOUT} {{
    node tool  = compute ask(completions, answers) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; {SAMPLING}, staleness = 1) -> {ROLLOUT}
    metric finished = sum(done)
  }}
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp; kl_coef = 0.0) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2, aggregate = "sequence_sum"
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-2
  metric spread  = std(old_logp, response_mask)
}}"""
VALIDATED = f"""use "mine.py"
algorithm validated {{
  param seed : int = 3
  param every : int = 2
  model actor : policy = {TASK}
  model judge : reward = {TASK}
  {INPUT} with batch = 4
  node rollout   = actor.generate(prompts; n = 4, {SAMPLING}) -> {ROLLOUT}
  node reward    = judge.score(tokens, response_mask) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2
  validate test every every {{
    {INPUT} with batch = 6
    node rollout = actor.generate(prompts; {SAMPLING}) -> {ROLLOUT}
    node echo    = actor.generate(completions; {SAMPLING}) -> tokens2, mask2, logp2, echoed
    node reward  = compute char_accuracy(completions, answers) -> score
    metric accuracy = mean(score)
    output answered = prompts, completions, score, echoed
  }}
}}"""


def checked(path: Path, settings: tuple[str, ...]) -> Module:
    """The module as the checks leave it, before any rewrite but that of loops."""
    seen: dict[str, Module] = {}
    compile_file(
        path, Options(settings=settings, observe=lambda name, module, _: seen.setdefault(name, module) and None)
    )
    context = Context(found=Diagnostics(), source_dir=path.parent)
    return UnrollLoops().apply(seen["bind_parameters"], context)


def both(folder: Path, text: str, settings: tuple[str, ...], steps: int = 3) -> tuple[list[dict[str, Any]], list[Step]]:
    """The lines of a run of the plan, and the steps of the graph as written."""
    source = folder / "algorithm.rl"
    source.write_text(text)
    (folder / "mine.py").write_text(MINE)
    rows = [{"prompts": f"{i}=", "answers": f"{i}{i}"} for i in range(10)]
    (folder / "task.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    plan = compile_file(source, Options(settings=settings)).plan
    local.run(plan, steps=steps, world_size=1, run_dir=folder / "run", observer=None, source_dir=folder, timeout_s=60.0)
    reference = Reference(checked(source, settings), source_dir=folder, steps=steps)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], [reference.step() for _ in lines]


def compare(got: dict[str, Any], want: Step) -> None:
    """Every number that the reference has; times and learning rates aside."""
    names = [n for n in want.metrics if not n.endswith(("/seconds", "/lr"))]
    assert names
    for name in names:
        assert got[name] == pytest.approx(want.metrics[name], rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("kl_coef", ["0.0", "0.1"])
@pytest.mark.parametrize("text", [GRPO, PPO], ids=["grpo", "ppo"])
def test_an_optimised_plan_equals_the_graph_as_written(tmp_path: Path, text: str, kl_coef: str) -> None:
    for got, want in zip(*both(tmp_path, text, (f"kl_coef={kl_coef}",)), strict=True):
        score, tokens = want.fields["score"].data, want.fields["tokens"].data
        assert isinstance(score, torch.Tensor) and isinstance(tokens, Ragged)
        assert got["tokens"] == len(tokens.values) and got["score"] == pytest.approx(float(score.mean()), rel=1e-6)
        assert ("ref_logp" in want.fields) == (kl_coef != "0.0") and "old_logp" in want.fields
        for name in (n for n in want.metrics if n.endswith(("/loss", "/grad_norm"))):
            assert got[name] == pytest.approx(want.metrics[name], rel=1e-5, abs=1e-9), name


def put_out(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "outputs" / f"{name}-0.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("limit", [2, 4, 10])
def test_resampling_equals_the_graph_as_written(tmp_path: Path, limit: int) -> None:
    lines, steps = both(tmp_path, RESAMPLE, (f"limit={limit}",), steps=4)
    for got, want in zip(lines, steps, strict=True):
        compare(got, want)
        ran = [k <= got["more/rounds"] for k in (1, 2, 3)]
        assert [got[f"more.{k}.share"] is not None for k in (1, 2, 3)] == ran
        # Though it stands behind the filter, it is of the iteration that ran.
        assert [got[f"more.{k}.deep"] is not None for k in (1, 2, 3)] == ran
    for name in ("kept", "more.1.tried", "more.2.tried"):
        assert put_out(tmp_path, name) == [row for step in steps for row in step.outputs.get(name, ())]
    assert ["kept" in step.outputs for step in steps] == [True, False, True, True]


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_turns_equal_the_graph_as_written(tmp_path: Path, turns: int) -> None:
    lines, steps = both(tmp_path, TURNS, (f"turns={turns}",), steps=4)
    for got, want in zip(lines, steps, strict=True):
        compare(got, want)
        first, before, after = (
            want.fields[n].data for n in ("tokens", "response_mask", "talk.response_mask" if turns else "response_mask")
        )
        assert isinstance(first, Ragged) and isinstance(before, Ragged) and isinstance(after, Ragged)
        new = int(after.values.sum()) - int(before.values.sum())
        assert (got["samples"], got["response_tokens"]) == (8, int(after.values.sum()))
        assert got["tokens"] == len(first.values) + new, "of a further turn only the response counts"


def test_validation_equals_the_graph_as_written(tmp_path: Path) -> None:
    lines, steps = both(tmp_path, VALIDATED, (), steps=4)
    for got, want in zip(lines, steps, strict=True):
        compare(got, want)
        assert (got["test.accuracy"] is None) == ("test.accuracy" not in want.metrics)
        score = want.fields["score"].data
        assert isinstance(score, torch.Tensor) and got["score"] == pytest.approx(float(score.mean()), rel=1e-5)
    assert ["test.accuracy" in step.metrics for step in steps] == [True, False, True, True]
    assert put_out(tmp_path, "test.answered") == [
        row for step in steps for row in step.outputs.get("test.answered", ())
    ]
