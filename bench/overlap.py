"""A step's seconds with work in the background, over those without, beside what is possible.

    python bench/overlap.py [--steps 9] [--each 0.02] [--only transfer]

GRPO with a reference and PPO with three forwards, on a model made from scratch, one rank. The reward waits for a
process (as a code sandbox does), or computes: in Python, which shares the interpreter with the rank's own thread, or
in NumPy, which does not; both need a core that is free. `limit` is the physical one: the forwards beside the reward
and the reward itself, of the run without overlap, take the longer of the two instead of their sum; the rest takes as
long as before.

`transfer` cases are GRPO with rollouts a step old on two ranks over gloo, which both train and sample (`together`), or
each do one (`apart`): weights travel beside the forwards. A transfer over the memory of one machine is work of its
processors, so it needs cores that are free even more than a reward does; between machines it is the network's.

Steps of the two plans alternate, and each side's fastest counts, the first left out: what else runs on
the machine makes steps slower only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # processes are begun and ended as the tests do it

import torch

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.compiler.ops import ComputeOp, SyncWeightsOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from tests.ranks import on_ranks

OVERLAP = frozenset({"overlap_computes", "prefetch_loads"})
MODELS = """
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 256, layers = 4, heads = 4)
  model critic    : value  = copy actor
  model reference : policy = frozen actor
"""
ROLLOUT = """
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 8
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 12) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute judge(completions, answers) -> score
"""
GRPO = f"""
use "judge.py"
algorithm grpo {{{MODELS}{ROLLOUT}
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node advantage = compute group_advantage(score; group = 4) -> advantages
  node update    = actor.train
    policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages, ref_logp; kl_coef = 0.1) with lr = 1e-5
}}
"""
PPO = f"""
use "judge.py"
algorithm ppo {{{MODELS}{ROLLOUT}
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.05) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node learn     = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-5
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-5
}}
"""
LATE = f"""
algorithm late {{{MODELS.replace("hidden = 256", "hidden = 384")}
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 8, staleness = 1)
                 -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node advantage = compute group_advantage(score; group = 4) -> advantages
  node update    = actor.train
    policy_loss(tokens, response_mask, old_logp, advantages, ref_logp; kl_coef = 0.1) with lr = 1e-5, minibatch = 4
}}
"""
TRANSFERS = {"together": (), "apart": ("actor.train : fsdp() on 0..0", "actor.generate : hf() on 1..1")}
REWARDS = {
    "waits": "subprocess.run(['sleep', str(EACH)], check=True)",
    "python": "while time.thread_time() < end:\n        sum(i * i for i in range(100))",
    "numpy": "while time.thread_time() < end:\n        BIG @ BIG",
}
JUDGE = """
import subprocess
import time

import numpy

BIG, EACH = numpy.ones((300, 300)), {each}


def judge(completions: str, answers: str) -> float:
    end = time.thread_time() + EACH
    {work}
    return float(len(completions) % 3)
"""


@dataclass(frozen=True)
class Measured:
    """Seconds of the fastest step."""

    off: float
    on: float
    limit: float


def write_task(folder: Path) -> None:
    """Rows to read."""
    rows = (json.dumps({"prompts": f"{i}=", "answers": f"{i}"}) for i in range(64))
    (folder / "task.jsonl").write_text("\n".join(rows))


def measure(text: str, judge: str, steps: int, folder: Path) -> Measured:
    """Compile with and without the passes, and run the two plans in turns."""
    write_task(folder)
    (folder / "judge.py").write_text(judge)
    (folder / "program.rl").write_text(text)
    plans = [compile_file(folder / "program.rl", Options(disable=disable)).plan for disable in (OVERLAP, frozenset())]
    runs = [Executor(p, Comm.alone(), steps=steps, source_dir=folder, run_dir=folder / "run") for p in plans]
    lines: list[list[Mapping[str, float | None]]] = [[], []]
    for step in range(steps):
        for run, found in zip(runs, lines, strict=True):
            found.append(run.run_step(step))
    off, on = ([float(line["seconds"] or 0) for line in found[1:]] for found in lines)
    limits = [_limit(plans[1], line) for line in lines[0][1:]]
    return Measured(min(off), min(on), min(limits))


def _limit(plan: Plan, line: Mapping[str, float | None]) -> float:
    """A step's least seconds, from those of its ops one after the other."""
    ops = plan.programs[0].ops
    begin = next(i for i, op in enumerate(ops) if isinstance(op, ComputeOp) and op.background)
    end = next(i for i, op in enumerate(ops) if isinstance(op, WaitOp))
    reward, beside = (
        sum(line.get(f"seconds/{op.id}") or 0.0 for op in part)
        for part in (ops[begin : begin + 1], ops[begin + 1 : end])
    )
    return (line["seconds"] or 0.0) - min(reward, beside)


def transfers(comm: Comm, folder: Path) -> dict[str, Measured]:
    """On this rank of two, each way to lay them out; a step is over when both ranks have ended it."""
    torch.set_num_threads(1)
    steps = int((folder / "steps").read_text())
    return {name: _transfer(comm, folder, layouts, steps) for name, layouts in TRANSFERS.items()}


def _transfer(comm: Comm, folder: Path, layouts: tuple[str, ...], steps: int) -> Measured:
    disabled = (frozenset({"overlap_transfers"}), frozenset[str]())
    plans = [
        compile_file(folder / "late.rl", Options(disable=each, layouts=layouts, world_size=2)).plan for each in disabled
    ]
    runs = [Executor(p, comm, steps=steps, source_dir=folder, run_dir=folder / "run") for p in plans]
    lasted: list[list[float]] = [[], []]
    lines: list[Mapping[str, float | None]] = []
    with runs[0].delivering(lambda line: lines.append(dict(line))), runs[1].delivering(lambda _: None):
        for step in range(steps):
            for run, found in zip(runs, lasted, strict=True):
                comm.barrier()
                began = time.perf_counter()
                run.run_step(step)
                comm.barrier()
                found.append(time.perf_counter() - began)
    off, on = (min(found[1:]) for found in lasted)
    saved = min((_hidden(plans[1], line) for line in lines[1:]), default=0.0)
    return Measured(off, on, off - saved)


def _hidden(plan: Plan, line: Mapping[str, float | None]) -> float:
    """What the shorter of the two takes, the transfer or what the first rank does until it waits for it."""
    ops = plan.programs[0].ops
    begin = next(i for i, op in enumerate(ops) if isinstance(op, SyncWeightsOp))
    end = next(i for i, op in enumerate(ops) if isinstance(op, WaitOp) and op.begun == ops[begin].id)
    transfer, *beside = (line.get(f"seconds/{op.id}") or 0.0 for op in ops[begin:end])
    return min(transfer, sum(beside))


def main() -> int:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--each", type=float, default=0.02, help="seconds of the reward for each of 32 rows")
    parser.add_argument("--only", choices=(*REWARDS, "transfer"), action="append")
    args = parser.parse_args()
    only = args.only or [*REWARDS, "transfer"]
    print(f"{'case':<18} {'off':>8} {'on':>8} {'on/off':>7} {'limit':>7}")
    for name, text in (("grpo", GRPO), ("ppo", PPO)):
        for kind in (k for k in REWARDS if k in only):
            work = REWARDS[kind]
            with tempfile.TemporaryDirectory() as folder:
                show(f"{name} {kind}", measure(text, JUDGE.format(work=work, each=args.each), args.steps, Path(folder)))
    if "transfer" in only:
        with tempfile.TemporaryDirectory() as folder:
            write_task(Path(folder))
            (Path(folder) / "late.rl").write_text(LATE)
            (Path(folder) / "steps").write_text(str(args.steps))
            for name, found in on_ranks(transfers, Path(folder))[0].items():
                show(f"transfer {name}", found)
    return 0


def show(name: str, found: Measured) -> None:
    """A line of the table."""
    ratios = f"{found.on / found.off:>7.2f} {found.limit / found.off:>7.2f}"
    print(f"{name:<18} {found.off:>7.2f}s {found.on:>7.2f}s {ratios}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
