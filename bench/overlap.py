"""A step's seconds with rewards in the background and rows read ahead, over those without, beside what is possible.

    python bench/overlap.py [--steps 9] [--each 0.02]

GRPO with a reference and PPO with three forwards, on a model made from scratch, one rank. The reward waits for a
process (as a code sandbox does), or computes: in Python, which shares the interpreter with the rank's own thread, or
in NumPy, which does not; both need a core that is free. `limit` is the physical one: the forwards beside the reward
and the reward itself, of the run without overlap, take the longer of the two instead of their sum; the rest takes as
long as before. Steps of the two plans alternate, and each side's fastest counts, the first left out: what else runs on
the machine makes steps slower only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.compiler.ops import ComputeOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan

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


def measure(text: str, judge: str, steps: int, folder: Path) -> Measured:
    """Compile with and without the passes, and run the two plans in turns."""
    (folder / "task.jsonl").write_text(
        "\n".join(json.dumps({"prompts": f"{i}=", "answers": f"{i}"}) for i in range(64))
    )
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


def main() -> int:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--each", type=float, default=0.02, help="seconds of the reward for each of 32 rows")
    parser.add_argument("--rewards", default=",".join(REWARDS))
    args = parser.parse_args()
    print(f"{'case':<14} {'off':>8} {'on':>8} {'on/off':>7} {'limit':>7}")
    for name, text in (("grpo", GRPO), ("ppo", PPO)):
        for kind in args.rewards.split(","):
            work = REWARDS[kind]
            with tempfile.TemporaryDirectory() as folder:
                found = measure(text, JUDGE.format(work=work, each=args.each), args.steps, Path(folder))
            ratios = f"{found.on / found.off:>7.2f} {found.limit / found.off:>7.2f}"
            print(f"{name + ' ' + kind:<14} {found.off:>7.2f}s {found.on:>7.2f}s {ratios}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
