"""What compiling costs with many ranks and with large graphs: from source to verified plan, in process, after import.

    python bench/compile_scale.py [--runs 15] [--large 10000]

Prints, as medians of processor time and beside it of time by the clock: PPO for 8, 1,024 and 131,072 ranks, all phases
on all of them or rollouts on a half of their own (limit 100 ms for 1,024, and three times what that takes for 131,072),
and what its plan.json takes to write, to read and on disk (limit 200 KB); a random graph of 10,000 nodes (limit 5 s)
beside one of 1,000; 64 chained diamonds (limit 50 ms) beside 32, where a planner that copies a sub-graph for every path
through it takes twice as long with each; and the HTML page of such chains. Ratios say how time grows: tenfold for ten
times the nodes is linear. Exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # other files of this folder are used

from bench.check_speed import MINE, diamonds  # noqa: E402
from bench.random_graph import RandomGraph  # noqa: E402
from rldsl.compiler.pipeline import Options, compile_file  # noqa: E402
from rldsl.compiler.plan import Plan  # noqa: E402
from rldsl.compiler.plan_io import dumps, loads, read_plan, write_plan  # noqa: E402

T = TypeVar("T")
PPO = ROOT / "examples" / "ppo.rl"
RANKS = (8, 1024, 131072)
MOST_BYTES = 200_000


@dataclass
class Report:
    """What was measured, and whether it keeps its limits."""

    kept: bool = True

    def say(self, what: str, value: float, limit: float | None = None, more: str = "") -> None:
        """One figure, with its limit if it has one."""
        ok = limit is None or value <= limit
        self.kept &= ok
        bound = "" if limit is None else f" limit={limit:g} {'kept' if ok else 'MISSED'}"
        print(f"compile_scale {what}={value:.4g}{bound}{more}", flush=True)


def timed(action: Callable[[], T], runs: int) -> tuple[float, float, T]:
    """Medians of processor and wall seconds, after one run that does not count, and what was made."""
    made = action()
    pairs = []
    for _ in range(runs):
        began, clock = time.process_time(), time.perf_counter()
        made = action()
        pairs.append((time.process_time() - began, time.perf_counter() - clock))
    cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
    return cpu, wall, made


def compiling(path: Path, options: Options, runs: int) -> tuple[float, str, Plan]:
    """Processor seconds of a compilation, how long that was by the clock, in words, and the plan."""
    cpu, wall, compiled = timed(partial(compile_file, path, options), runs)
    return cpu, f" wall_s={wall:.4g}", compiled.plan


def ranks(report: Report, folder: Path, runs: int) -> None:
    """PPO for more and more ranks, each with two prompts a rank: all phases on all, then each half with its own."""
    for name in ("ppo", "ppo_in_groups"):
        seconds: dict[int, float] = {}
        for size in RANKS:
            settings = (f"batch={2 * size}", f"minibatch={size}")
            layouts = apart(size) if name == "ppo_in_groups" else ()
            options = Options(settings=settings, cluster=f"{size} x h100", layouts=layouts)
            cpu, wall, plan = compiling(PPO, options, runs)
            seconds[size] = cpu
            limit = 0.1 if size == 1024 else 3 * seconds[1024] if size > 1024 else None
            report.say(f"{name} ranks={size} cpu_s", cpu, limit, f"{wall} ratio_to_8={cpu / seconds[8]:.2f}")
            on_disk(report, f"{name} ranks={size}", plan, folder / "plan.json", runs)


def apart(size: int) -> tuple[str, ...]:
    """Training and forward passes on the first half of the ranks, rollouts on the other."""
    half = size // 2
    trained = (f"{model}.train : fsdp(dp = {half}) on 0..{half - 1}" for model in ("actor", "critic", "reference"))
    return *trained, f"actor.generate : hf(dp = {half}) on {half}..{size - 1}"


def on_disk(report: Report, what: str, plan: Plan, file: Path, runs: int) -> None:
    """How large plan.json is, and how long it takes to write and to read."""
    write, _, _ = timed(partial(write_plan, plan, file), runs)
    read, _, again = timed(partial(read_plan, file), runs)
    assert again == plan
    more = f" write_cpu_s={write:.4f} read_cpu_s={read:.4f}"
    report.say(f"{what} plan_bytes", file.stat().st_size, MOST_BYTES, more)


def graphs(report: Report, folder: Path, large: int, runs: int) -> None:
    """A random graph beside one of a tenth of its nodes."""
    seconds: list[float] = []
    path = folder / "random.rl"
    for count in (large // 10, large):
        made = RandomGraph(count)
        path.write_text(made.text)
        cpu, wall, plan = compiling(path, Options(), runs)
        seconds.append(cpu)
        ops = sum(1 for _ in plan.ops())
        more = f"{wall} ops={ops} ratio_to_a_tenth={cpu / seconds[0]:.1f}"
        report.say(f"random_graph nodes={len(made.lines)} cpu_s", cpu, 5.0 if count == large else None, more)
        write, _, text = timed(partial(dumps, plan), 1)
        read, _, _ = timed(partial(loads, text, "plan.json"), 1)
        print(
            f"compile_scale random_graph nodes={len(made.lines)} bytes={len(text.encode())} "
            f"write_cpu_s={write:.3f} read_cpu_s={read:.3f}",
            flush=True,
        )
    print(f"compile_scale random_graph kinds: {', '.join(f'{k} {n}' for k, n in made.kinds.most_common())}")


def chains(report: Report, folder: Path, runs: int) -> None:
    """Diamonds in a row."""
    (folder / "mine.py").write_text(MINE)
    path = folder / "diamonds.rl"
    before = 0.0
    for count in (32, 64):
        path.write_text(diamonds(count))
        cpu, wall, _ = compiling(path, Options(), runs)
        ratio = f" ratio_to_half={cpu / before:.2f}" if before else ""
        report.say(f"diamonds={count} cpu_s", cpu, 0.05 if count == 64 else None, wall + ratio)
        before = cpu


def pages(report: Report, folder: Path, runs: int) -> None:
    """The HTML page of a long chain beside one of a quarter of its nodes."""
    page_of = import_module("rldsl.render.html").page_of
    path = folder / "diamonds.rl"
    before = 0.0
    for count in (64, 256):
        path.write_text(diamonds(count))
        plan = compile_file(path).plan
        cpu, _, text = timed(partial(page_of, plan), runs)
        ratio = f" ratio_to_a_quarter={cpu / before:.1f}" if before else ""
        report.say(f"html diamonds={count} cpu_s", cpu, None, f" bytes={len(text.encode())}{ratio}")
        before = cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--large", type=int, default=10_000, help="nodes of the larger random graph")
    args = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks(report, folder, args.runs)
        chains(report, folder, args.runs)
        graphs(report, folder, args.large, max(args.runs // 5, 1))
        pages(report, folder, 1)
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
