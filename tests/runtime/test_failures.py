"""Real processes that die, hang and are interrupted: one message, the right exit code, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan_io import write_plan
from rldsl.compiler.verify import verify_plan
from tests.runtime.plans import in_background, least, only_compute, user_function, write_task

BIN = Path(sys.executable).parent
MARK = "RLDSL_TEST_RUN"
IN_A_COLLECTIVE = """
import os, time, torch
def user(prompts, reduce):
    open(f"pid-{os.getpid()}", "w").close()
    time.sleep(0.2)
    reduce(torch.ones(1))
    return [1.0] * len(prompts)
"""
# One rank computes for ever and holds nobody up by name; the other is killed.
IN_A_LONG_COMPUTE = """
import os, torch
def user(prompts, reduce):
    open(f"pid-{os.getpid()}", "w").close()
    big = torch.rand(600, 600)
    while True:
        big @ big
"""
IN_THE_BACKGROUND = """
import os, time
def user(prompts):
    open(f"pid-{os.getpid()}", "w").close()
    time.sleep(600)
"""
ONE_RANK_HANGS = """
import time, torch
def user(prompts, reduce):
    if prompts[0] == "1=":
        time.sleep(600)
    reduce(torch.ones(1))
    return [1.0] * len(prompts)
"""


class Job:
    """A command in a folder of its own; every process it starts carries a mark in its environment."""

    def __init__(self, folder: Path, command: list[str], **extra: str) -> None:
        self.mark = f"{MARK}={folder}"
        env = {
            **os.environ,
            MARK: str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **extra,
        }
        self.folder = folder
        self.out = folder / "out.txt"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)

    def ranks(self, count: int) -> list[int]:
        """The pids of the ranks, once all have begun to compute and gone on for a while."""
        wait(lambda: len(list(self.folder.glob("pid-*"))) >= count or self.process.poll() is not None, 90)
        assert self.process.poll() is None, self.out.read_text()
        time.sleep(1.2)
        return sorted(int(p.name[4:]) for p in self.folder.glob("pid-*"))

    def end(self, seconds: float) -> str:
        """What it said, once it has ended."""
        self.process.wait(seconds)
        return self.said()

    def said(self) -> str:
        """Its output, lines that the terminal view has wrapped made whole."""
        return " ".join(self.out.read_text().split())

    def left(self) -> list[int]:
        """Processes of this job that still run."""
        return [pid for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()) if self._marked(pid)]

    def _marked(self, pid: int) -> bool:
        try:
            return self.mark in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return False


def wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a job; whatever the test does, its processes are gone afterwards."""
    jobs: list[Job] = []

    def begin(command: list[str], **extra: str) -> Job:
        jobs.append(Job(tmp_path, command, **extra))
        return jobs[-1]

    yield begin
    for job in jobs:
        for pid in job.left():
            os.kill(pid, signal.SIGKILL)
        job.process.wait(10)


def write(folder: Path, body: str) -> None:
    function = msgspec.structs.replace(user_function(folder, body), reduces=True)
    write_plan(only_compute(folder, function, reduces=True), folder / "plan.json")


def write_background(folder: Path, body: str = IN_THE_BACKGROUND) -> None:
    plan = in_background(only_compute(folder, user_function(folder, body)))
    assert verify_plan(plan) == []
    write_plan(plan, folder / "plan.json")


def rldsl(backend: str, ranks: int, *more: str) -> list[str]:
    return [str(BIN / "rldsl"), "run", "plan.json", "--backend", backend, "-n", str(ranks), "--steps", "1000", *more]


def torchrun(ranks: int) -> list[str]:
    return [str(BIN / "torchrun"), "--nproc-per-node", str(ranks), "-m", "rldsl.backends.torchrun", "plan.json"]


def assert_dies(job: Job, victim: int, seconds: float, where: str = "op `judge`") -> str:
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    said = job.end(seconds)
    print(f"ended {time.monotonic() - began:.1f} s after kill -9")
    assert job.process.returncode == 1
    assert said.count("error[RL0701]") == 1, said
    assert f"(pid {victim} on " in said and f"died in {where}, step " in said, said
    wait(lambda: not job.left(), 10)
    assert not job.left()
    return said


def assert_interrupted(job: Job, ranks: int) -> None:
    """Ctrl-C once all ranks compute: the exit code for that, no error, and nothing left."""
    job.ranks(ranks)
    job.process.send_signal(signal.SIGINT)
    said = job.end(15)
    assert job.process.returncode == 130, said
    assert "Traceback" not in said and "RL07" not in said
    wait(lambda: not job.left(), 10)
    assert not job.left()


@pytest.mark.parametrize("body", [IN_A_COLLECTIVE, IN_A_LONG_COMPUTE], ids=["collective", "compute"])
def test_kill_a_rank_under_torchrun(tmp_path: Path, start: Callable[..., Job], body: str) -> None:
    write(tmp_path, body)
    job = start(rldsl("torchrun", 2))
    said = assert_dies(job, job.ranks(2)[-1], 15)
    assert "Traceback" not in said and "ChildFailedError" not in said


def test_kill_a_rank_that_waits_for_the_background(tmp_path: Path, start: Callable[..., Job]) -> None:
    """The watch ends the other rank, which waits for a function of its own."""
    write_background(tmp_path)
    job = start(rldsl("torchrun", 2))
    said = assert_dies(job, job.ranks(2)[-1], 15, where="op `wait:judge` of node `judge`")
    assert "Traceback" not in said


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2)])
@pytest.mark.parametrize("body", [IN_THE_BACKGROUND, IN_A_LONG_COMPUTE.replace(", reduce", "")], ids=["waits", "works"])
def test_interrupt_while_a_function_runs_in_the_background(
    tmp_path: Path, start: Callable[..., Job], backend: str, ranks: int, body: str
) -> None:
    """The thread of one that works is inside of PyTorch when the process ends."""
    write_background(tmp_path, body)
    assert_interrupted(start(rldsl(backend, ranks)), ranks)


def test_kill_a_rank_under_ray(tmp_path: Path, start: Callable[..., Job]) -> None:
    write(tmp_path, IN_A_COLLECTIVE)
    job = start(rldsl("ray", 2))
    said = assert_dies(job, job.ranks(2)[0], 25)
    assert "raylet" not in said and "Traceback" not in said


def test_kill_a_rank_under_a_launcher_of_the_users_own(tmp_path: Path, start: Callable[..., Job]) -> None:
    write(tmp_path, IN_A_COLLECTIVE)
    job = start(torchrun(2))
    assert_dies(job, job.ranks(2)[0], 15)


def test_kill_the_only_rank(tmp_path: Path, start: Callable[..., Job]) -> None:
    write(tmp_path, IN_A_COLLECTIVE)
    job = start(rldsl("torchrun", 1))
    assert "killed by SIGKILL" in assert_dies(job, job.ranks(1)[0], 15)


def test_kill_the_launcher(tmp_path: Path, start: Callable[..., Job]) -> None:
    write(tmp_path, IN_A_COLLECTIVE)
    job = start(rldsl("torchrun", 2))
    job.ranks(2)
    job.process.kill()
    wait(lambda: not job.left(), 15)
    assert not job.left()
    assert job.said().count("the launcher died") == 1


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2), ("ray", 2)])
def test_interrupt(tmp_path: Path, start: Callable[..., Job], backend: str, ranks: int) -> None:
    write(tmp_path, IN_A_COLLECTIVE)
    assert_interrupted(start(rldsl(backend, ranks)), ranks)


OFF_THE_DEVICE = """
import os, time
from pathlib import Path
def user(completions: str) -> float:
    if list(Path("run").glob("offload-*/*")):
        open(f"pid-{os.getpid()}", "w").close()
        time.sleep(600)
    return float(len(completions))
"""
TOY = Path(__file__).parents[2] / "examples" / "toy"


def write_swapping(folder: Path, ranks: int) -> None:
    """A plan whose states are off the device, below the folder `run`, when a function begins to wait."""
    (folder / "mine.py").write_text(OFF_THE_DEVICE)
    shutil.copy(TOY / "copy.jsonl", folder)
    text = (TOY / "ppo.rl").read_text().replace("char_accuracy(completions, answers)", "user(completions)")
    (folder / "toy.rl").write_text(f'use "mine.py"\n{text}')
    options = Options(cluster=f"{ranks} x cpu", memory=least(folder / "toy.rl", ranks))
    write_plan(compile_file(folder / "toy.rl", options).plan, folder / "plan.json")


def terminate(job: Job, ranks: int, *, all_of_them: bool) -> str:
    """SIGTERM as schedulers send it: to the first process, or to all, and to the first twice. No state may stay."""
    job.ranks(ranks)
    assert len(list(job.folder.glob("run/offload-*/*"))) >= ranks
    for pid in [job.process.pid, *(job.left() if all_of_them else ())]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    said = job.end(30)
    wait(lambda: not job.left(), 10)
    assert not job.left() and not list(job.folder.glob("run/offload-*")), said
    return said


@pytest.mark.parametrize(
    ("backend", "ranks", "all_of_them"),
    [("local", 1, True), ("torchrun", 2, False), ("torchrun", 2, True), ("ray", 2, False), ("ray", 2, True)],
)
def test_told_to_end(tmp_path: Path, start: Callable[..., Job], backend: str, ranks: int, all_of_them: bool) -> None:
    write_swapping(tmp_path, ranks)
    job = start(rldsl(backend, ranks, "--run-dir", "run"))
    said = terminate(job, ranks, all_of_them=all_of_them)
    assert job.process.returncode == 143, said
    assert said.endswith("terminated") and "Traceback" not in said and "RL07" not in said


@pytest.mark.parametrize(("backend", "how"), [("torchrun", signal.SIGKILL), ("ray", signal.SIGINT)])
def test_states_of_ranks_that_were_killed_go(
    tmp_path: Path, start: Callable[..., Job], backend: str, how: signal.Signals
) -> None:
    """By whoever does it, one of them; by Ray, after Ctrl-C, all."""
    write_swapping(tmp_path, 2)
    job = start(rldsl(backend, 2, "--run-dir", "run"))
    ranks = job.ranks(2)
    assert len(list(tmp_path.glob("run/offload-*/*"))) >= 2
    os.kill(ranks[-1] if how is signal.SIGKILL else job.process.pid, how)
    said = job.end(25)
    assert job.process.returncode == (1 if how is signal.SIGKILL else 130), said
    assert not list(tmp_path.glob("run/offload-*"))


def test_told_to_end_under_a_launcher_of_the_users_own(tmp_path: Path, start: Callable[..., Job]) -> None:
    write_swapping(tmp_path, 2)
    job = start([*torchrun(2), "--run-dir", "run"])
    said = terminate(job, 2, all_of_them=False)
    assert said.count("error[RL0701]: the run was told to end (SIGTERM)") == 1, said


def test_interrupt_while_ranks_start(tmp_path: Path, start: Callable[..., Job]) -> None:
    """A terminal signals all of the job's processes; ranks that still import torch must end without a traceback."""
    write(tmp_path, IN_A_COLLECTIVE)
    job = start(rldsl("torchrun", 2))
    wait(lambda: sum(b"rldsl.backends.torchrun" in _command(pid) for pid in job.left()) >= 2, 60)
    time.sleep(0.5)
    for pid in job.left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    said = job.end(20)
    assert job.process.returncode == 130, said
    assert "Traceback" not in said
    wait(lambda: not job.left(), 10)
    assert not job.left()


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_rank_that_hangs_is_a_timeout(tmp_path: Path, start: Callable[..., Job]) -> None:
    write(tmp_path, ONE_RANK_HANGS)
    job = start(rldsl("torchrun", 2, "--timeout", "4"))
    said = job.end(60)
    assert job.process.returncode == 1
    assert said.count("error[RL0702]") == 1 and "in all_reduce for ranks" in said and "in op `judge`, step" in said, (
        said
    )
    assert not job.left()


def test_a_function_that_hangs_in_the_background_is_a_timeout(tmp_path: Path, start: Callable[..., Job]) -> None:
    """Of the rank that has gone on and waits for the other."""
    write_background(tmp_path, ONE_RANK_HANGS.replace(", reduce", "").replace("    reduce(torch.ones(1))\n", ""))
    job = start(rldsl("torchrun", 2, "--timeout", "4"))
    said = job.end(60)
    assert job.process.returncode == 1
    assert said.count("error[RL0702]") == 1 and "in op `metrics`, step " in said, said
    assert not job.left()


def test_ranks_that_run_different_plans(tmp_path: Path, start: Callable[..., Job]) -> None:
    """Started by hand with the variables of torchrun: rank 0 holds the store."""
    write(tmp_path, IN_A_COLLECTIVE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    here = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "rldsl.backends.torchrun", "plan.json", "--steps"]
    first = start([*command, "5"], RANK="0", **here)
    (tmp_path / "second").mkdir()
    write(tmp_path / "second", IN_A_COLLECTIVE)
    second = Job(tmp_path / "second", [*command, "6"], RANK="1", **here)
    said = first.end(60) + second.end(60)
    assert first.process.returncode == second.process.returncode == 1
    assert said.count("error[RL0703]") == 1 and "for 6 steps on rank 1" in said, said


APART = """use "mine.py"

algorithm apart {
  model actor : policy = scratch(; alphabet = "0123456789=", hidden = 16, layers = 1)
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 3, staleness = 1)
                 -> tokens, response_mask, rollout_logp, completions
  node judge     = compute user(completions) -> score
  node advantage = compute group_advantage(score; group = 2) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.1
}

deploy {
  cluster 3 x cpu
  actor.train    : fsdp() on 0..1
  actor.generate : hf() on 2..2
  judge on 2..2
}
"""
THE_THIRD_HANGS = """
import os, time
calls = []
def user(completions: str) -> float:
    calls.append(1)
    if len(calls) > 2 * 8:
        open(f"pid-{os.getpid()}", "w").close()
        time.sleep(600)
    return float(len(completions))
"""


def assert_the_third_ends(folder: Path, start: Callable[..., Job], how: signal.Signals, text: str, at: str) -> None:
    """Of three ranks one hangs in the third step, and is killed or interrupted: all hear of it, and say where."""
    write_task(folder)
    (folder / "loop.rl").write_text(text)
    command = [str(BIN / "rldsl"), "run", "loop.rl", "--backend", "torchrun", "-n", "3", "--steps", "9"]
    job = start([*command, "--run-dir", "run"])
    (victim,) = job.ranks(1)
    if how is signal.SIGKILL:
        said = assert_dies(job, victim, 15, at)
        assert "rank 2 (pid" in said and "step 3 of 9" in said and "Traceback" not in said
    else:
        assert_interrupted(job, 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_rank_that_generates_dies(tmp_path: Path, start: Callable[..., Job], how: signal.Signals) -> None:
    """Those that wait for its rows hear of it, and the log has the steps that all ranks have ended."""
    (tmp_path / "mine.py").write_text(THE_THIRD_HANGS)
    assert_the_third_ends(tmp_path, start, how, APART, "op `wait:judge` of node `judge`")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


BESIDE = APART.replace(
    "  node judge", "  node old       = actor.logprob(tokens, response_mask) -> old_logp\n  node judge"
).replace("old_logp = rollout_logp) with", "old_logp) with minibatch = 2,")
NEVER_ARRIVES = """
import os, time
from rldsl.backends import handlers
usual, begun = handlers.transfer_later, []
def later(*args):
    work = usual(*args)
    begun.append(1)
    def never():
        if len(begun) > 2 and os.environ["RANK"] == "2":
            open(f"pid-{os.getpid()}", "w").close()
            time.sleep(600)
        work()
    return never
handlers.transfer_later = later
def user(completions: str) -> float:
    return float(len(completions))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_weights_that_never_arrive(tmp_path: Path, start: Callable[..., Job], how: signal.Signals) -> None:
    """The third rank's end of the transfer in the background hangs, in the third step; the others wait for it."""
    (tmp_path / "mine.py").write_text(NEVER_ARRIVES)
    assert_the_third_ends(tmp_path, start, how, BESIDE, "op `wait:sync_weights:actor:1` of node `rollout`")
