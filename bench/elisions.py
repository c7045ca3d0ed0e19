"""Seconds a step without each optional pass, over those with all: the demo's GRPO and PPO, on SmolLM2-135M.

    python bench/elisions.py [--steps 5] [--only grpo,ppo] [--passes elide_old_logp,skip_zero_rows+elide_old_logp]

GRPO is as `make demo` runs it; PPO takes one optimiser step a batch. For each pass that changes the program there are
two executors, with the pass and without, whose steps alternate, so that what else the machine does falls on both; the
first step of each is left out. The learning rate is next to 0, so that both sides sample the same rows in every step:
that is checked. Prints the ratio of the medians, of time by the clock and of processor time (all threads), and the ops
that only one of the two programs has. The last line of each algorithm is without all passes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.compiler.ops import AnyOp, FreeOp
from rldsl.compiler.pipeline import OPTIONAL_PASSES, Options, compile_file
from rldsl.compiler.plan import Plan

EXAMPLES = Path(__file__).parents[1] / "examples"
STILL = 1e-12  # a learning rate that changes nothing
ALGORITHMS = {
    "grpo": (f"lr={STILL}",),
    "ppo": (f"actor_lr={STILL}", f"critic_lr={STILL}", "epochs=1", "minibatch=16"),
}
SAMPLED = ("response_tokens", "score")  # the same on both sides, or they do not do the same work


@dataclass
class Side:
    """One of the two programs, and what its steps took."""

    executor: Executor
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sampled: list[tuple[float | None, ...]] = field(default_factory=list)

    def step(self, number: int) -> None:
        """Run and time one step."""
        began, clock = time.process_time(), time.perf_counter()
        line = self.executor.run_step(number)
        self.wall.append(time.perf_counter() - clock)
        self.cpu.append(time.process_time() - began)
        self.sampled.append(tuple(line.get(name) for name in SAMPLED))

    def medians(self, other: Side) -> Iterator[tuple[float, float]]:
        """Of this side and the other: seconds a step by the clock, then of the processor."""
        yield statistics.median(self.wall), statistics.median(other.wall)
        yield statistics.median(self.cpu), statistics.median(other.cpu)


def compiled(name: str, disable: frozenset[str]) -> Plan:
    return compile_file(EXAMPLES / f"{name}.rl", Options(settings=ALGORITHMS[name], disable=disable)).plan


def work(plan: Plan) -> list[AnyOp]:
    """The ops without reasons, which say nothing of what is done."""
    return [msgspec.structs.replace(op, because=()) for op in plan.ops()]


def differing(on: Plan, off: Plan) -> str:
    """The ops that one of the two does and the other does not, or does otherwise."""
    mine, theirs = ({op.id: op for op in work(plan) if not isinstance(op, FreeOp)} for plan in (on, off))
    other = [n for n in mine if n in theirs and mine[n] != theirs[n]]
    lists = {
        "only without it": theirs.keys() - mine.keys(),
        "only with it": mine.keys() - theirs.keys(),
        "changed": other,
    }
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in lists.items() if names)


def measured(on: Plan, off: Plan, steps: int, folder: Path) -> tuple[Side, Side]:
    """Both programs, step by step in turn, each first in every other step."""
    sides = [
        Side(Executor(plan, Comm.alone(), steps=steps + 1, source_dir=EXAMPLES, run_dir=folder / name))
        for name, plan in (("on", on), ("off", off))
    ]
    for number in range(steps + 1):
        for side in sides if number % 2 else sides[::-1]:
            side.step(number)
    for side in sides:
        del side.wall[0], side.cpu[0]
    assert sides[0].sampled == sides[1].sampled, "the two sides have sampled other rows"
    return sides[0], sides[1]


def compare(name: str, what: str, disable: frozenset[str], steps: int) -> None:
    on, off = compiled(name, frozenset()), compiled(name, disable)
    if work(on) == work(off):
        print(f"elisions {name} without {what}: the same program", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        one, other = measured(on, off, steps, Path(folder))
    clock, cpu = (f"{b / a:.2f} ({b:.2f} over {a:.2f} s)" for a, b in one.medians(other))
    print(f"elisions {name} without {what}: wall_ratio={clock} cpu_ratio={cpu} steps={steps}; {differing(on, off)}")
    sys.stdout.flush()


def choices(passes: str) -> Iterator[tuple[str, frozenset[str]]]:
    """What to leave out: each pass, then all of them."""
    named = sorted(OPTIONAL_PASSES) if passes == "all" else passes.split(",")
    for name in named:
        yield name, frozenset(name.split("+"))
    if passes == "all":
        yield "all of them", OPTIONAL_PASSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", default=",".join(ALGORITHMS))
    parser.add_argument("--passes", default="all")
    args = parser.parse_args()
    for name in args.only.split(","):
        for what, disable in choices(args.passes):
            compare(name, what, disable, args.steps)


if __name__ == "__main__":
    sys.exit(main())
