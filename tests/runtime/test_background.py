"""Functions in the background and rows read ahead: they run beside, give the same, and fail as in the foreground."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import torch

from rldsl.backends.background import SWITCH_S, Background
from rldsl.backends.comm import Comm
from rldsl.backends.data.loader import _Fields
from rldsl.backends.executor import Executor
from rldsl.backends.observer import Silent
from rldsl.compiler.ops import AnyOp, ComputeOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic, DiagnosticError
from tests.runtime.differential import Outcome, alone, execute
from tests.runtime.pool import Ranks

OFF = frozenset({"overlap_computes", "prefetch_loads"})
PROGRAM = """
use "judge.py"
algorithm small {
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 32, layers = 2, heads = 2)
  model critic    : value  = copy actor
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl"; shuffle = false) with batch = 4
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute judge(completions, answers) -> score
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, rollout_logp, ref_logp; kl_coef = 0.05) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node learn     = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-3
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr = 1e-3
}
"""
JUDGE = "def judge(completions: str, answers: str) -> float:\n"
USUAL = JUDGE + "    return len(completions) % 3 + 0.5\n"


def made(folder: Path, functions: str = USUAL, disable: frozenset[str] = frozenset(), rows: int = 16) -> Plan:
    lines = (json.dumps({"prompts": f"{i % 10}=", "answers": f"{i % 10}"}) for i in range(rows))
    (folder / "task.jsonl").write_text("\n".join(lines))
    (folder / "judge.py").write_text(functions)
    (folder / "small.rl").write_text(PROGRAM)
    return compile_file(folder / "small.rl", Options(disable=disable)).plan


def executor(plan: Plan, folder: Path, steps: int = 2, observer: Silent | None = None) -> Executor:
    torch.set_num_threads(1)
    return Executor(plan, Comm.alone(), steps=steps, source_dir=folder, run_dir=folder / "run", observer=observer)


def same(one: Outcome, other: Outcome) -> bool:
    """Everything but times, to the bit."""

    def lines(of: Outcome) -> list[Mapping[str, object]]:
        return [{k: v for k, v in x.items() if "seconds" not in k and k != "tokens_per_s"} for x in of.lines]

    def weights(of: Outcome) -> list[tuple[str, str, list[float]]]:
        return [(m, n, w.flatten().tolist()) for m, each in of.weights.items() for n, w in each.items()]

    return lines(one) == lines(other) and weights(one) == weights(other)


def told(plan: Plan, folder: Path, steps: int = 2) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        executor(plan, folder, steps).run()
    (found,) = caught.value.diagnostics
    return found


def test_the_plan_has_what_is_tested(tmp_path: Path) -> None:
    ids = [op.id for op in made(tmp_path).ops()]
    assert ids.index("reward") < ids.index("ref") < ids.index("wait:reward")


def test_results_are_the_same_on_one_rank_and_on_two(tmp_path: Path) -> None:
    off, on = made(tmp_path, disable=OFF), made(tmp_path)
    assert off != on
    assert same(alone(off, tmp_path, tmp_path / "off"), alone(on, tmp_path, tmp_path / "on"))
    with Ranks(2) as ranks:
        two = [ranks.run(plan, tmp_path, tmp_path / name) for name, plan in (("off2", off), ("on2", on))]
    assert same(*two)


class Marks(Silent):
    """Leaves a file when an op begins."""

    def __init__(self, folder: Path, op: str) -> None:
        self._folder, self._op = folder, op

    def on_op(self, op: AnyOp) -> None:
        if op.id == self._op:
            (self._folder / "begun").touch()


WAITS_FOR_THE_CRITIC = f"""
import pathlib, time
{JUDGE}
    end = time.monotonic() + 30
    while not (pathlib.Path(__file__).parent / "begun").exists():
        assert time.monotonic() < end, "nothing ran beside it"
        time.sleep(0.005)
    return 1.0
"""


def test_it_runs_beside_the_forwards(tmp_path: Path) -> None:
    """The function ends only when the second forward has begun, and raises if that never happens."""
    plan = made(tmp_path, WAITS_FOR_THE_CRITIC)
    line = executor(plan, tmp_path, observer=Marks(tmp_path, "baseline")).run_step(0)
    assert line["score"] == 1.0


def test_all_calls_are_of_one_thread(tmp_path: Path) -> None:
    body = f"import threading\nSEEN = []\n{JUDGE}    SEEN.append(threading.current_thread().name)\n    return 1.0\n"
    run = executor(made(tmp_path, body), tmp_path)
    function = run.runtime.calls["reward"]
    run.run()
    assert set(function.__globals__["SEEN"]) == {"rldsl-compute"} and len(function.__globals__["SEEN"]) == 16


class Clock(Silent):
    """When each op has begun, in order."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}

    def on_op(self, op: AnyOp) -> None:
        self.began[op.id] = time.perf_counter()

    def between(self, first: str, last: str) -> float:
        """Seconds from the begin of one op to the end of another, which is the begin of the one after it."""
        names = list(self.began)
        return self.began[names[names.index(last) + 1]] - self.began[first]


TAKES_ITS_TIME = f"""
import time
TAKEN = []
{JUDGE}
    began = time.perf_counter()
    time.sleep(0.05)
    TAKEN.append(time.perf_counter() - began)
    return 1.0
"""


def test_seconds_are_those_of_the_function_and_of_waiting(tmp_path: Path) -> None:
    """However busy the machine is: the function's own are at least what it has taken, and within the time it had."""
    clock = Clock()
    run = executor(made(tmp_path, TAKES_ITS_TIME), tmp_path, observer=clock)
    line = run.run_step(0)
    reward, waited, total = line["seconds/reward"], line["seconds/wait:reward"], line["seconds"]
    assert reward is not None and waited is not None and total is not None
    taken = sum(run.runtime.calls["reward"].__globals__["TAKEN"])
    begun, wait = clock.between("reward", "reward"), clock.between("wait:reward", "wait:reward")
    assert taken <= reward <= begun + clock.between("reward", "wait:reward")
    assert 0 < waited <= wait < total


RAISES = f"{JUDGE}    if answers == '2':\n        raise ValueError('two')\n    return 1.0\n"


def test_an_error_is_told_as_in_the_foreground(tmp_path: Path) -> None:
    foreground = told(made(tmp_path, RAISES, disable=OFF), tmp_path)
    background = told(made(tmp_path, RAISES), tmp_path)
    assert background == foreground
    assert background.code == "RL0705" and background.found == "ValueError: two"
    assert "on sample 1 of prompt 3 (id 4), in step 1 of 2" in background.message


def test_a_wrong_result_is_told_as_in_the_foreground(tmp_path: Path) -> None:
    body = f"{JUDGE}    return 'much'\n"
    background = told(made(tmp_path, body), tmp_path)
    assert background == told(made(tmp_path, body, disable=OFF), tmp_path) and background.code == "RL0706"


def test_an_error_comes_out_at_the_wait(tmp_path: Path) -> None:
    """Ops between the beginning and the wait have run; and the status says who was waited for."""
    run = executor(made(tmp_path, RAISES), tmp_path)
    with pytest.raises(DiagnosticError):
        run.run_step(0)
    assert {"ref_logp", "values"} <= run.runtime.buffer.all().keys()
    status = run.runtime.comm.status
    assert status.where() == "op `wait:reward` of node `reward`, step 1 of 2"


def test_a_signal_in_the_background_is_explained(tmp_path: Path) -> None:
    """As a library may set one: what the user's own files import keeps them out of the background."""
    body = f"import importlib\n{JUDGE}    sig = importlib.import_module('signal')\n    sig.signal(sig.SIGALRM, sig.SIG_DFL)\n"
    found = told(made(tmp_path, body + "    return 1.0\n"), tmp_path)
    assert found.code == "RL0705" and any("--disable-pass overlap_computes" in note for note in found.notes)


def test_after_a_failure_nothing_begins(tmp_path: Path) -> None:
    """The other forward fails while the function runs: what is queued behind it is never called."""
    began, go = threading.Event(), threading.Event()
    background = Background("test", torch.device("cpu"))

    def slow() -> None:
        began.set()
        go.wait(30)

    called: list[int] = []
    background.start(slow)
    background.start(lambda: called.append(1))
    assert began.wait(30)
    background.close()
    go.set()
    wait_until(lambda: not any(t.name == "test" for t in threading.enumerate()))
    assert called == []


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_tasks_run_one_after_the_other_and_keep_what_they_raise() -> None:
    background = Background("test-order", torch.device("cpu"))
    usual = sys.getswitchinterval()
    seen: list[int] = []
    inside: list[float] = []

    def number(i: int) -> int:
        seen.append(i)
        inside.append(sys.getswitchinterval())
        if i == 1:
            raise SystemExit("one")
        return i

    tasks = [background.start(lambda i=i: number(i)) for i in range(4)]
    assert tasks[3].result() == 3 and seen == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match="one"):
        tasks[1].result()
    assert inside == pytest.approx([SWITCH_S] * 4)
    wait_until(lambda: sys.getswitchinterval() == pytest.approx(usual))


# -- rows read ahead


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str]]]:
    """The rows read so far, and by which thread."""
    seen: list[tuple[int, str]] = []
    usual = _Fields.__getitem__

    def counted(self: _Fields, index: int) -> dict[str, object]:
        seen.append((index, threading.current_thread().name))
        return usual(self, index)

    monkeypatch.setattr(_Fields, "__getitem__", counted)
    yield seen


def test_rows_are_read_in_the_background_and_none_past_the_last_step(
    tmp_path: Path, reads: list[tuple[int, str]]
) -> None:
    executor(made(tmp_path), tmp_path, steps=3).run()
    assert [i for i, _ in reads] == list(range(12))
    assert [t == "rldsl-load" for _, t in reads] == [False] * 4 + [True] * 8


def test_a_bad_row_is_told_in_its_own_step(tmp_path: Path) -> None:
    plan = made(tmp_path)
    rows = (tmp_path / "task.jsonl").read_text().splitlines()
    rows[5] = '{"prompts": "1="}'
    (tmp_path / "task.jsonl").write_text("\n".join(rows))
    run = executor(plan, tmp_path)
    assert run.run_step(0)["samples"] == 8
    with pytest.raises(DiagnosticError, match="RL0605") as caught:
        run.run_step(1)
    assert "line 6" in caught.value.diagnostics[0].message
    assert run.runtime.comm.status.where() == "op `load:prompts`, step 2 of 2"
    executor(plan, tmp_path, steps=1).run()  # a run that ends before that row does not read it


def test_seconds_of_a_load_are_those_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = _Fields.__getitem__

    taken: list[float] = []

    def slow(self: _Fields, index: int) -> dict[str, object]:
        began = time.perf_counter()
        time.sleep(0.02)
        row = usual(self, index)
        taken.append(time.perf_counter() - began)
        return row

    monkeypatch.setattr(_Fields, "__getitem__", slow)
    run, began = executor(made(tmp_path), tmp_path), time.perf_counter()
    for step in range(2):
        seconds = run.run_step(step)["seconds/load:prompts"]
        assert seconds is not None and sum(taken[4 * step : 4 * step + 4]) <= seconds < time.perf_counter() - began


def test_in_the_foreground_nothing_waits(tmp_path: Path) -> None:
    """A plan without the two passes makes no thread."""
    plan = made(tmp_path, disable=OFF)
    assert not any(isinstance(op, WaitOp) or (isinstance(op, ComputeOp) and op.background) for op in plan.ops())
    before = threading.active_count()
    execute(msgspec.structs.replace(plan, seed=1), Comm.alone(), tmp_path, tmp_path / "run")
    assert threading.active_count() <= before
