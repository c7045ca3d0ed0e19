"""The memory model beside what the modules themselves need: estimate over measured, for training and for generation.

    python bench/memory.py [--only SUBSTRING] [--verbose]

Every configuration of `bench/memory_cases.py` is estimated by `rldsl.compiler.cost.memory` and run by
`bench/memory_oracle.py`. Exit 1 unless, for each kind, estimate over measured is at least 1.0, at most 1.10 in the
median and at most 1.25 at the 95th percentile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import warnings
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.memory_cases import CASES, Case, estimate

GIB = 1 << 30
LEAST, MEDIAN, HIGH = 1.0, 1.10, 1.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only configurations whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="the terms of each estimate")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ratios: dict[str, list[float]] = defaultdict(list)
    for case in CASES:
        if options.only in case.name:
            ratios[case.kind].append(_compare(case, options.verbose))
    return max([_judge(kind, found) for kind, found in ratios.items()], default=0)


def _compare(case: Case, verbose: bool) -> float:
    from bench.memory_oracle import measure

    made = estimate(case)
    measured = measure(case)
    ratio = made.bytes / measured.peak
    print(
        f"{case.name:<74} {made.bytes / GIB:9.3f} {measured.peak / GIB:9.3f} GiB {ratio:6.3f}"
        f"  at {made.peak.name} ({measured.seconds:.0f} s)",
        flush=True,
    )
    for term in made.peak.terms if verbose else ():
        print(f"    {term.bytes / GIB:9.3f}  {term.category.value:<14} {term.what}: {term.formula}")
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
