"""The memory model beside what the modules themselves need: estimate over measured, for training and for generation.

    python bench/memory.py [--only SUBSTRING] [--without modules|allocations] [--fitting] [--verbose]

Every configuration of `bench/memory_cases.py` is estimated by `rldsl.compiler.cost.memory` and run by
`bench/memory_oracle.py`, on tensors without data; those of `bench/memory_real.py` are run on this machine, and the
allocator's bytes counted. `--fitting` shows those that formulas and constants come from instead. Exit 1 unless, for
each kind, estimate over measured is at least 1.0, at most 1.10 in the median and at most 1.25 at the 95th percentile.
A quarter of an hour on two quiet cores, and 4 GiB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import memory_cases, memory_real
from rldsl.compiler.cost.memory_terms import Footprint

MIB = 1 << 20
LEAST, MEDIAN, HIGH = 1.0, 1.10, 1.25
MODULES, ALLOCATIONS = "modules", "allocations"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only configurations whose name contains this")
    parser.add_argument("--without", choices=(MODULES, ALLOCATIONS), help="leave one of the two comparisons out")
    parser.add_argument("--fitting", action="store_true", help="those that formulas and constants come from")
    parser.add_argument("--verbose", action="store_true", help="the terms of each estimate")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ratios: dict[str, list[float]] = defaultdict(list)
    cases = memory_cases.DERIVED_WITH if options.fitting else memory_cases.CASES
    for case in cases if options.without != MODULES else ():
        if options.only in case.name:
            began = time.perf_counter()
            from bench.memory_oracle import measure

            found = measure(case).peak, time.perf_counter() - began
            ratios[case.kind].append(_compare(case.name, memory_cases.estimate(case), *found, options.verbose))
    runs = memory_real.FITTED_WITH if options.fitting else memory_real.RUNS
    for run in runs if options.without != ALLOCATIONS else ():
        if options.only in run.name:
            began = time.perf_counter()
            found = memory_real.measure(run), time.perf_counter() - began
            ratios[f"{run.kind}, allocated"].append(
                _compare(run.name, memory_real.estimate(run), *found, options.verbose)
            )
    return max([_judge(kind, found) for kind, found in ratios.items()], default=0)


def _compare(name: str, made: Footprint, measured: int, seconds: float, verbose: bool) -> float:
    ratio = made.bytes / measured
    sizes = f"{made.bytes / MIB:11,.1f} {measured / MIB:11,.1f} MiB"
    print(f"{name:<78} {sizes} {ratio:6.3f}  at {made.peak.name} ({seconds:.0f} s)", flush=True)
    for term in made.peak.terms if verbose else ():
        print(f"    {term.bytes / MIB:11,.1f}  {term.category.value:<14} {term.what}: {term.formula}")
    return ratio


def _judge(kind: str, ratios: list[float]) -> int:
    """Prints the summary; 1 outside the limits."""
    ordered = sorted(ratios)
    high = ordered[-(-95 * len(ordered) // 100) - 1]
    least, median = ordered[0], statistics.median(ordered)
    passed = least >= LEAST and median <= MEDIAN and high <= HIGH
    print(
        f"{kind}: {len(ordered)} configurations, estimate over measured: minimum {least:.3f} (limit {LEAST:.2f}), "
        f"median {median:.3f} ({MEDIAN:.2f}), 95th percentile {high:.3f} ({HIGH:.2f}), maximum {ordered[-1]:.3f}"
        f": {'passed' if passed else 'FAILED'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
