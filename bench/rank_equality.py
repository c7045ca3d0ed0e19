"""Same rollouts on 1, 2 and 4 ranks under every backend: how far apart are losses, gradient norms and weights?

    python bench/rank_equality.py [--backends local,torchrun,ray] [--ranks 1,2,4] [--steps 3]

PPO on a small model made from scratch: actor, critic, reference, two epochs of two minibatches, whitened advantages
(sums over ranks). Everything is compared with one rank of the `local` backend; exit 1 above the limits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from safetensors.torch import load_file

from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Plan

LOSS_LIMIT, WEIGHT_LIMIT = 1e-5, 1e-4
COMPARED = ("critic_update/loss", "critic_update/grad_norm", "actor_update/loss", "actor_update/grad_norm")
SAME_ROLLOUT = ("score", "samples", "tokens", "response_tokens")
SEQUENCE = "tokens, response_mask"
TRAINING = "lr = 1e-3, minibatch = 4, epochs = 2"
PPO = f"""
algorithm ppo {{
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 64, layers = 2, heads = 2)
  model critic    : value  = copy actor
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl"; shuffle = true) with batch = 8
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 8) -> {SEQUENCE}, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob({SEQUENCE}) -> old_logp
  node ref       = reference.logprob({SEQUENCE}) -> ref_logp
  node baseline  = critic.value({SEQUENCE}) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.05) -> rewards
  node advantage = compute gae(rewards, values, response_mask; gamma = 1.0, lam = 0.95) -> advantages, returns
  node critic_update = critic.train value_loss({SEQUENCE}, values, returns) with {TRAINING}
  node actor_update  = actor.train policy_loss({SEQUENCE}, old_logp, advantages) with {TRAINING}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run: its steps' metrics and the weights it left."""

    steps: list[dict[str, float]]
    folder: Path


def run(backend: str, ranks: int, plan: Plan, source: Path, folder: Path, steps: int) -> Outcome:
    """Run the plan, its whole output in `folder`."""
    with contextlib.redirect_stdout(sys.stderr):
        import_module(f"rldsl.backends.{backend}").run(
            plan, steps=steps, world_size=ranks, run_dir=folder, observer=None, source_dir=source, timeout_s=120.0
        )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return Outcome(steps=[json.loads(line) for line in lines], folder=folder)


def relative(a: float, b: float) -> float:
    """|a - b| over the larger of the two."""
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def metric_gap(base: Outcome, other: Outcome, name: str) -> float:
    """The largest relative difference over the steps."""
    return max(relative(a[name], b[name]) for a, b in zip(base.steps, other.steps, strict=True))


def weight_gap(base: Outcome, other: Outcome) -> float:
    """The largest norm of a difference of two weight tensors, over the norm of the tensor."""
    files = [o.folder / "checkpoint" / "model.safetensors" for o in (base, other)]
    a, b = (load_file(f) for f in files)
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / a[n].norm()) for n in a)


def same_rollouts(base: Outcome, other: Outcome) -> bool:
    """Rewards and token counts of every step are the very same."""
    return all(relative(a[n], b[n]) < 1e-9 for a, b in zip(base.steps, other.steps, strict=True) for n in SAME_ROLLOUT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="local,torchrun,ray")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    pairs = [(b, int(n)) for b in args.backends.split(",") for n in args.ranks.split(",") if b != "local" or n == "1"]
    with tempfile.TemporaryDirectory() as scratch:
        return compare(pairs, Path(scratch), args.steps)


def compare(pairs: list[tuple[str, int]], scratch: Path, steps: int) -> int:
    """Print the table; 1 if anything is above its limit."""
    (scratch / "ppo.rl").write_text(PPO)
    rows = [{"prompts": f"{i}=", "answers": str(i) * 3} for i in range(10)]
    (scratch / "task.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    plan = compile_file(scratch / "ppo.rl").plan
    base = run("local", 1, plan, scratch, scratch / "base", steps)
    print(f"{'backend':<10}{'ranks':>5}  {'rollouts':<9}" + "".join(f"{n:>25}" for n in (*COMPARED, "weights")))
    bad = False
    for backend, ranks in pairs:
        other = run(backend, ranks, plan, scratch, scratch / f"{backend}{ranks}", steps)
        gaps = [metric_gap(base, other, name) for name in COMPARED]
        weights, same = weight_gap(base, other), same_rollouts(base, other)
        cells = "".join(f"{g:>25.1e}" for g in (*gaps, weights))
        print(f"{backend:<10}{ranks:>5}  {'same' if same else 'DIFFER':<9}{cells}", flush=True)
        bad |= not same or max(gaps) > LOSS_LIMIT or weights > WEIGHT_LIMIT
    limits = f"limits {LOSS_LIMIT:.0e}, weights {WEIGHT_LIMIT:.0e}"
    print(f"relative to one rank, {steps} steps of 8 optimiser steps; {limits}: {'FAIL' if bad else 'ok'}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
