"""The view of a running job, and what it prints where there is no terminal."""

import io
import re

import msgspec
import pytest

from rldsl.compiler.ops import MetricOp, Reduction
from rldsl.compiler.plan import FieldSpec, Program
from rldsl.render.progress import (
    Progress,
    ProgressView,
    RunState,
    bar,
    duration,
    ending,
    sparkline,
    step_line,
)
from rldsl.render.style import Terminal
from tests.render.loops import collecting


def metrics(step):
    return {
        "step": float(step),
        "score": step / 20,
        "update_actor/loss": 0.0123,
        "update_actor/kl": 0.0031,
        "update_actor/grad_norm": 1.234,
        "update_critic/loss": 0.5,
        "tokens_per_s": 151.3,
        "seconds": 3.9,
        "seconds/rollout": 2.0,
        "seconds/update_actor": 1.0,
        "seconds/free_0": 0.0001,
    }


@pytest.fixture
def state(plan):
    made = RunState(plan=plan, steps=60, started=0.0)
    made.history = [metrics(step) for step in range(20)]
    made.op = plan.programs[0].ops[5]
    return made


@pytest.mark.parametrize("width", [80, 120])
def test_view(state, drawn, golden, width):
    text = drawn(ProgressView(state, clock=lambda: 81.0), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"progress-{width}.txt", text)


def test_before_the_first_step(plan, drawn):
    text = drawn(ProgressView(RunState(plan=plan, steps=60, started=0.0), clock=lambda: 3.0), 80)
    assert "step 0 of 60" in text
    assert "starting" in text


def test_step_line(state):
    assert step_line(state) == (
        "step 20/60  reward 0.950  update_actor: loss 0.0123  kl 0.0031  grad norm 1.23"
        "  update_critic: loss 0.5  151 tokens/s  3.9 s"
    )


def test_no_terminal_gives_a_line_a_step(plan, tmp_path):
    out = io.StringIO()
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"0" * 2_500_000)
    with Progress(Terminal(file=out, width=80)) as progress:
        progress.on_start(plan, 20)
        for step in range(20):
            progress.on_op(plan.programs[0].ops[0])
            progress.on_step(metrics(step))
        progress.on_end()
    progress.conclude(tmp_path)
    lines = out.getvalue().splitlines()
    assert [line[:10] for line in lines[:2]] == ["step  1/20", "step  2/20"]
    assert lines[20] == "mean reward: 0.225 over the first 10, 0.725 over the last 10 steps"
    assert lines[21].startswith("20 steps in 0:0")
    assert [line.split() for line in lines[22:]] == [["checkpoint/", "2.5", "MB"], ["plan.json", "2", "B"]]


def test_a_terminal_gets_a_live_view(plan):
    out = io.StringIO()
    with Progress(Terminal(file=out, force_terminal=True, width=80)) as progress:
        progress.on_start(plan, 20)
        progress.on_step(metrics(0))
        progress.on_end()
    assert "step 1 of 20" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_run_that_fails_leaves_the_terminal_clean(plan):
    out = io.StringIO()
    with pytest.raises(RuntimeError), Progress(Terminal(file=out, force_terminal=True, width=80)) as progress:
        progress.on_start(plan, 20)
        raise RuntimeError
    assert out.getvalue().endswith("\x1b[?25h")


def test_numbers_that_are_not_finite_are_left_out(plan):
    progress = Progress(Terminal(file=io.StringIO(), width=80))
    progress.on_start(plan, 2)
    progress.on_step({**metrics(0), "score": None})
    progress.on_step(metrics(1))
    assert progress._running.rewards == [0.05]


def test_ending_without_rewards(plan, tmp_path):
    state = RunState(plan=plan, steps=1, started=0.0, history=[{"seconds": 1.0}])
    assert next(ending(state, tmp_path)) == "mean reward: -, no step had one"
    unrewarded = msgspec.structs.replace(plan, programs=())
    state = RunState(plan=unrewarded, steps=1, started=0.0, history=[{"seconds": 1.0}])
    assert next(ending(state, tmp_path)).startswith("1 step in ")
    assert step_line(state) == "step 1/1  1.0 s"


NOTHING_KEPT = {"prompts": 24.0, "tokens": 1206.0, "resample/kept": 0.0, "resample/rounds": 3.0, "update/steps": 0.0}


def test_a_step_that_kept_nothing_has_no_reward(collected, tmp_path, drawn):
    collected.history = [{**NOTHING_KEPT, "update/loss": 0.0, "update/grad_norm": 0.0}] * 3
    assert step_line(collected) == "step  3/60  reward -  no prompt kept  rounds 3  no step taken"
    assert next(ending(collected, tmp_path)) == "mean reward: -, no step had one"
    text = drawn(ProgressView(collected), 80)
    assert re.search(r"^reward +-$", text, re.MULTILINE)
    assert re.search(r"^resample   no prompt kept   rounds 3$", text, re.MULTILINE)
    collected.history += [{"score": 1.0}, {"score": 2.0}]
    assert next(ending(collected, tmp_path)) == (
        "mean reward: 1.500 over the first 2, 1.500 over the last 2 of the 2 steps that had one"
    )


@pytest.mark.parametrize(
    ("values", "width", "curve"),
    [([0.0, 1.0], 10, "▁█"), ([1.0, 1.0, 1.0], 10, "▁▁▁"), ([0.0, 0.0, 1.0, 1.0], 2, "▁█"), ([5.0], 10, "▁")],
)
def test_sparkline(values, width, curve):
    assert sparkline(values, width) == curve


def test_bar():
    assert bar(1.0, 10) == "█" * 10
    assert bar(0.05, 10) == "▌"
    assert bar(0.0, 10) == "▏"


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3725, "1:02:05"), (59.7, "1:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def validated(step):
    """What a step of `collecting` logs: rounds as they were needed, validation every 10 steps."""
    every = {"test.accuracy": 0.1 + step / 40, "test.best": 1.0, "test.score": 0.1 + step / 40}
    return {
        "score": 0.5,
        "reward_kept": 0.5 + step / 100,
        "resample/kept": 17.0,
        "resample/rounds": 2.0,
        "update/loss": 0.01,
        "seconds/resample.1.rollout": 2.0,
        "seconds/resample.2.rollout": 1.5,
        "seconds/update": 1.0,
        "seconds/test.rollout": 0.0 if step % 10 else 3.0,
        **({} if step % 10 else every),
    }


@pytest.fixture
def collected():
    score = FieldSpec(name="score", type="f32[sample]", producer="resample")
    made = RunState(plan=msgspec.structs.replace(collecting(), fields=(score,)), steps=60, started=0.0)
    made.history = [validated(step) for step in range(21)]
    return made


@pytest.mark.parametrize("width", [80, 120])
def test_view_of_loops_and_validations(collected, drawn, golden, width):
    collected.op = next(op for op in collected.plan.ops() if op.id == "resample.2.rollout")
    text = drawn(ProgressView(collected, clock=lambda: 81.0), width)
    assert {len(line) <= width for line in text.splitlines()} == {True}
    assert text == golden(f"collecting-progress-{width}.txt", text)


def test_iterations_of_a_loop_are_timed_together(collected, drawn):
    text = drawn(ProgressView(collected), 80)
    assert re.search(r"^resample\.rollout +3\.50 s", text, re.MULTILINE)
    assert "resample.2" not in text
    assert "resample   kept 17   rounds 2" in text


def test_validation_keeps_its_last_value_between_its_steps(collected, drawn):
    collected.history += [validated(21)]
    text = drawn(ProgressView(collected), 80)
    assert re.search(r"^test\.accuracy +0\.6 .* in step 21$", text, re.MULTILINE)
    assert "test.accuracy" not in step_line(collected)
    assert "reward_kept 0.71" in step_line(collected)


def test_a_step_with_a_validation_says_its_metrics(collected, tmp_path):
    assert "test.accuracy 0.6  test.best 1" in step_line(collected)
    assert "test.accuracy: 0.1 in step 1, 0.6 in step 21" in list(ending(collected, tmp_path))


def test_a_metric_called_like_one_of_the_log_is_found():
    metric = MetricOp(id="seconds", node="seconds", name="seconds", reduction=Reduction.MEAN, field="score")
    plan = msgspec.structs.replace(collecting(), programs=(Program(ops=(metric,)),))
    state = RunState(plan=plan, steps=1, started=0.0, history=[{"seconds": 9.0, "metric/seconds": 0.5}])
    assert state.metrics == {"seconds": [(0, 0.5)]}
