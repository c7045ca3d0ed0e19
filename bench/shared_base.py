"""Memory and seconds of distillation by adapters whose teacher is the student's base, over those with two models.

    python bench/shared_base.py [--steps 4]

`examples/distill.rl` on SmolLM2-135M in float32, its prompts limited, where student and teacher begin alike: with the
pass `share_base_weights` the teacher has no weights of its own. Memory: each plan runs in a process of its own, by
`rldsl compile` and `rldsl run`; measured is the most of any op, above what the process held before models were loaded,
and predicted is what the plan says. Seconds: the two programs run step by step in turn in one process, and sample the
same rows, since the learning rate is next to 0; ratios of medians, by the clock and of processor time. Log-probs are
the same to the bit, which is checked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.elisions import EXAMPLES, STILL, measured
from rldsl.compiler.ops import State
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan

NAME = "share_base_weights"
SETTINGS = ("precision=fp32", "batch=2", f"lr={STILL}")
BUDGET = "16GiB"  # enough for both: nothing is moved
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Run:
    """A plan, and the log of its run."""

    plan: Plan
    lines: list[dict[str, float]]

    @property
    def measured(self) -> float:
        """MiB at the peak."""
        return max(v for line in self.lines for n, v in line.items() if n.startswith("memory/")) / MIB

    @property
    def predicted(self) -> float:
        """MiB at the peak, without what is set aside for libraries."""
        assert self.plan.memory is not None, "a plan for a budget says what it needs"
        return (self.plan.memory.peak - self.plan.memory.reserve) / MIB

    @property
    def weights(self) -> float:
        """MiB of the weights of all models."""
        assert self.plan.memory is not None
        return sum(s.bytes for s in self.plan.memory.states if s.state is State.WEIGHTS) / MIB


def run(folder: Path, *extra: str) -> Run:
    """Compile and run in processes of their own."""
    path, run_dir = folder / f"{len(extra)}.json", folder / str(len(extra))
    settings = [f"--set={s}" for s in SETTINGS]
    sized = ("--world-size=1", f"--memory={BUDGET}")
    rldsl("compile", str(program(folder)), "--emit", str(path), *sized, *settings, *extra)
    rldsl("run", str(path), "--steps=2", "--run-dir", str(run_dir))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return Run(plan=read_plan(path), lines=lines)


def program(folder: Path) -> Path:
    """The shipped one with the limit of its prompts, much less than a plan takes for granted."""
    path, text = folder / "distill.rl", (EXAMPLES / "distill.rl").read_text()
    path.write_text(text.replace("max_new_tokens = 24", "max_new_tokens = 24, max_prompt_tokens = 64"))
    return path


def rldsl(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "rldsl", *arguments], check=True, stdout=subprocess.DEVNULL)


def memory(folder: Path) -> str:
    shared, apart = run(folder), run(folder, f"--disable-pass={NAME}")
    name = "minus_reverse_kl"
    assert [line[name] for line in shared.lines] == [line[name] for line in apart.lines], "the log-probs differ"
    ratios = (
        f"{what} {getattr(shared, what) / getattr(apart, what):.2f} "
        f"({getattr(shared, what):,.0f} over {getattr(apart, what):,.0f} MiB)"
        for what in ("weights", "measured", "predicted")
    )
    return f"shared_base memory: {', '.join(ratios)}"


def seconds(folder: Path, steps: int) -> str:
    options = (Options(settings=SETTINGS, disable=frozenset(off)) for off in ((), (NAME,)))
    shared, apart = (compile_file(EXAMPLES / "distill.rl", each).plan for each in options)
    one, other = measured(shared, apart, steps, folder)
    clock, cpu = (f"{a / b:.2f} ({a:.2f} over {b:.2f} s)" for a, b in one.medians(other))
    return f"shared_base seconds: wall {clock}, cpu {cpu}, steps {steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rldsl-base-") as name:
        print(memory(Path(name)), flush=True)
        print(seconds(Path(name), args.steps))


if __name__ == "__main__":
    main()
