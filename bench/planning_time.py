"""What planning memory adds to compiling: with and without the pass `plan_memory`, in process, after import.

    python bench/planning_time.py [--runs 15]

PPO for 1,024 ranks (the shipped example's model, Qwen2.5-7B and 72B), of 72B on 32 ranks, where states must move, and
on one processor with four tenths of the memory that it takes unplanned. Prints for each medians of processor seconds
with and without, what is added, and that over the limit of 100 ms; compilations of the two kinds in turn, so that a
busy machine slows both. Exit 1 above the limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rldsl.compiler.ops import OffloadOp, OnloadOp
from rldsl.compiler.pipeline import Compiled, Options, compile_file

PPO = Path(__file__).parents[1] / "examples" / "ppo.rl"
LIMIT_S = 0.1
VLLM = "actor.generate : vllm(tp = 8)"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A compilation of PPO."""

    name: str
    options: Options


def cases() -> list[Case]:
    """The example's own model, then Qwen2.5 as large as it is put on so many ranks."""

    def case(name: str, ranks: int, *settings: str, layouts: tuple[str, ...] = ()) -> Case:
        sizes = (f"batch={max(256, 2 * ranks)}", f"minibatch={max(64, ranks)}")
        options = Options(settings=(*sizes, *settings), cluster=f"{ranks} x h100", layouts=layouts)
        return Case(name=f"{name}, {ranks:,} ranks", options=options)

    tight = Options(cluster="1 x cpu", memory=2720 << 20)
    return [
        Case(name="SmolLM2-135M, 1 processor, 2,720 MiB", options=tight),
        case("SmolLM2-135M", 1024),
        case("Qwen2.5-7B", 1024, "model=Qwen/Qwen2.5-7B"),
        case("Qwen2.5-72B", 32, "model=Qwen/Qwen2.5-72B", layouts=(VLLM,)),
        case("Qwen2.5-72B", 1024, "model=Qwen/Qwen2.5-72B", layouts=(VLLM,)),
    ]


def timed(options: Options) -> tuple[float, Compiled]:
    """Processor seconds of one compilation."""
    began = time.process_time()
    made = compile_file(PPO, options)
    return time.process_time() - began, made


def added(case: Case, runs: int) -> float:
    """Print the case; seconds that planning adds."""
    without = replace(case.options, disable=frozenset({"plan_memory"}))
    made = timed(case.options)[1]
    timed(without)
    pairs = [(timed(case.options)[0], timed(without)[0]) for _ in range(runs)]
    full, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    more = statistics.median(a - b for a, b in pairs)
    memory = made.plan.memory
    assert memory is not None, "a cluster has a budget"
    moves = sum(isinstance(op, OnloadOp | OffloadOp) for op in made.plan.ops())
    print(
        f"planning_time {case.name}: {moves} moves, with_s={full:.4f} without_s={bare:.4f} added_s={more:.4f} "
        f"of_limit={more / LIMIT_S:.2f} {'kept' if more <= LIMIT_S else 'MISSED'}",
        flush=True,
    )
    return more


def main() -> int:
    """1 where a case adds more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    return int(max(added(case, args.runs) for case in cases()) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
