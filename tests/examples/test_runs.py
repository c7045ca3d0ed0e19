"""Every example trains a tiny model: on one rank and on two, and as the reference interpreter has it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.reference import Step
from rldsl.compiler.ops import SaveOp, TrainOp
from rldsl.compiler.plan import Plan
from tests.examples.models import Models
from tests.examples.runs import CASES, MORE_RANKS, NAMES, STEPS, Run, interpreted, logged, title

Runs = Callable[..., Run]
every_example = pytest.mark.parametrize("name", NAMES)
TIMES = ("seconds", "tokens_per_s")
LOGGED = {
    "dapo": ("resample/kept", "resample/rounds", "resample.1.share", "update/clip_fraction"),
    "debate": ("a_score", "b_score", "alice_update/kl", "bob_update/kl"),
    "distill": ("minus_reverse_kl",),
    "off_policy": ("update/rollout_gap",),
    "ppo": ("critic_update/value_error", "actor_update/rollout_gap"),
    "ppo_reward_model": ("critic_update/value_error", "actor_update/ref_kl", "score"),
    "remax": ("greedy_accuracy", "score"),
    "validated": ("test.accuracy", "score"),
}


@every_example
def test_it_trains(run: Runs, models: Models, name: str) -> None:
    made = run(name)
    assert [line["step"] for line in made.lines] == list(range(STEPS))
    trained = {op.id: op.model for op in made.plan.ops() if isinstance(op, TrainOp)}
    for line in made.lines:
        wanted = [f"{node}/{number}" for node in trained for number in ("loss", "grad_norm")]
        assert all(math.isfinite(line[n]) for n in (*wanted, *LOGGED.get(name, ("score",)))), line
    assert max(line[f"{node}/grad_norm"] for line in made.lines for node in trained) > 0, "there was nothing to learn"
    saved = {op.model: made.folder / op.path for op in made.plan.ops() if isinstance(op, SaveOp)}
    assert set(saved) == {m for m in trained.values() if made.plan.model(m).kind == "policy"}
    for model, folder in saved.items():
        check_checkpoint(made, model, folder, models)


def check_checkpoint(made: Run, model: str, folder: Path, models: Models) -> None:
    """transformers loads it, and it is what training left."""
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert len(AutoTokenizer.from_pretrained(folder)) == len(AutoTokenizer.from_pretrained(models.policy))
    assert far(made.weights[model], loaded) == 0.0
    assert far(loaded, AutoModelForCausalLM.from_pretrained(models.policy).state_dict()) > 0


def far(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The largest norm of a difference of two weights, over the norm of the weight."""
    assert some.keys() == others.keys()
    return max(float((some[n] - others[n]).norm() / others[n].norm().clamp(min=1e-30)) for n in others)


@pytest.mark.parametrize(("name", "more"), CASES, ids=title)
def test_the_plan_equals_the_graph_as_written(run: Runs, models: Models, name: str, more: tuple[str, ...]) -> None:
    made, (steps, weights) = run(name, more), interpreted(name, models, more)
    for line, fields, step in zip(made.lines, made.fields, steps, strict=True):
        for number, value in comparable(step, made.plan).items():
            assert line[number] == pytest.approx(value, rel=1e-5, abs=1e-7), number
        assert fields.keys() <= step.fields.keys()
        for field, column in fields.items():
            check_equal(column, step.fields[field], field)
    for model, found in made.weights.items():
        assert far(found, weights[model]) < 1e-5, model


def comparable(step: Step, plan: Plan) -> dict[str, float]:
    """The interpreter skips no rows, and a loss's own metrics are of the rows that were not skipped."""
    skipping = tuple(f"{op.id}/" for op in plan.ops() if isinstance(op, TrainOp) and op.skip_where_zero)
    always = ("/loss", "/grad_norm", "/tokens")
    numbers = {n: v for n, v in step.metrics.items() if n.endswith(always) or not n.startswith(skipping)}
    assert any(n.endswith("/loss") for n in numbers)
    return {n: v for n, v in numbers.items() if not n.endswith(("/seconds", "/lr"))}


def check_equal(got: Column, want: Column, field: str) -> None:
    """The same rows, whatever their order."""
    got, want = (c.select(c.ids.argsort()) for c in (got, want))
    assert torch.equal(got.ids, want.ids) and got.per_prompt == want.per_prompt, field
    if isinstance(got.data, Ragged) and isinstance(want.data, Ragged):
        assert torch.equal(got.data.lengths, want.data.lengths), field
        got_data, want_data = got.data.values, want.data.values
    elif isinstance(got.data, Tensor) and isinstance(want.data, Tensor):
        got_data, want_data = got.data, want.data
    else:
        assert got.data == want.data, field
        return
    assert got_data.dtype == want_data.dtype and torch.allclose(got_data, want_data, rtol=1e-5, atol=1e-6), field


@every_example
def test_two_ranks_give_what_one_gives(run: Runs, two_ranks: Path, name: str) -> None:
    check_log(logged(two_ranks / "runs" / name), run(name).lines)


@every_example
def test_training_apart_from_rollouts_gives_the_same(run: Runs, two_ranks: Path, name: str) -> None:
    check_apart(two_ranks / "apart2" / name, run(name))


@pytest.mark.parametrize("ranks", [3, 4])
@pytest.mark.parametrize("name", MORE_RANKS)
def test_groups_of_several_ranks_give_the_same(
    run: Runs, more_ranks: Callable[[int], Path], name: str, ranks: int
) -> None:
    check_apart(more_ranks(ranks) / f"apart{ranks}" / name, run(name))


def check_apart(folder: Path, want: Run) -> None:
    """The log, what is put out, and the checkpoints."""
    check_log(logged(folder), want.lines)
    assert put_out(folder) == put_out(want.folder)
    for op in want.plan.ops():
        if isinstance(op, SaveOp):
            there, here = (
                AutoModelForCausalLM.from_pretrained(f / op.path).state_dict() for f in (folder, want.folder)
            )
            assert far(there, here) < 1e-4, op.model


def put_out(folder: Path) -> list[str]:
    """The lines of all ranks."""
    return sorted(line for p in (folder / "outputs").glob("*.jsonl") for line in p.read_text().splitlines())


def check_log(lines: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for got, want in zip(lines, wanted, strict=True):
        names, others = ([n for n in each if not n.startswith("seconds/")] for each in (got, want))
        assert set(names) == set(others)
        for number in (n for n in others if not n.startswith(TIMES) and not n.endswith("/seconds")):
            # Advantages are about 1 and cancel: a loss may be far smaller than the terms that it is the mean of.
            near = None if want[number] is None else pytest.approx(want[number], rel=1e-5, abs=1e-6)
            assert got[number] == near, number


def test_what_dapo_keeps(run: Runs) -> None:
    for line, fields in zip(run("dapo").lines, run("dapo").fields, strict=True):
        assert 1 <= line["resample/rounds"] <= 4 and line["resample/kept"] > 0
        kept = fields["score"].data
        assert isinstance(kept, Tensor) and 0 < len(kept) <= 4 * 8
        # Right and wrong answers in each group, with penalties or not.
        groups = kept.view(-1, 8)
        assert bool((groups.amax(1) > groups.amin(1)).all())


def test_the_turns_of_tools(run: Runs) -> None:
    for fields in run("tools").fields:
        done, last = (fields[f"dialogue.1.{n}"] for n in ("done", "completions"))
        assert isinstance(done.data, Tensor) and isinstance(last.data, list)
        assert 0 < int(done.data.sum()) < len(done.data), "some ask, some answer"
        first = fields["completions"].data
        assert isinstance(first, list)
        over = done.data.tolist()
        assert all(a == b for a, b, d in zip(first, last.data, over, strict=True) if d), "who was done said it before"
        assert any(a != b for a, b, d in zip(first, last.data, over, strict=True) if not d)


def test_what_is_validated(run: Runs) -> None:
    made = run("validated")
    rows = [json.loads(line) for line in (made.folder / "outputs" / "test.answered-0.jsonl").read_text().splitlines()]
    assert len(rows) == STEPS * 32
    for step, line in enumerate(made.lines):
        scores = [row["score"] for row in rows if row["step"] == step]
        assert line["test.accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert [r["prompts"] for r in rows[:32]] == [r["prompts"] for r in rows[32:]]


def test_off_policy_samples_with_older_weights(run: Runs) -> None:
    first, second = run("off_policy").lines
    assert first["update/rollout_gap"] == pytest.approx(0.0, abs=1e-5)
    assert second["update/rollout_gap"] > 1e-4
