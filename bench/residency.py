"""Random residency problems, small enough to try every choice: is what the planner finds the best, and within budget?

    python bench/residency.py [COUNT] [SEED]

Each problem is a step of random uses of random states, under a random budget. Every
set of swapped gaps is tried and judged by a walk over the step that shares no code with the planner. Prints how far
the planner, greedy and HiGHS each are from the best, and fails if the planner is more than 5 % off, exceeds a budget
or says that nothing fits where something does.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from rldsl.compiler.cost.residency import Choice, Gap, Problem, Way, Work, choose, greedy
from rldsl.compiler.cost.residency_gaps import Use, gaps_of

MOST_GAPS = 10
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A step: the uses of each state by op, who changes it, and each op's ways."""

    budget: int
    sizes: tuple[int, ...]
    uses: tuple[tuple[Use, ...], ...]
    ways: tuple[tuple[Way, ...], ...]
    seconds: tuple[tuple[float, float], ...]


def drawn(rng: random.Random) -> tuple[Case, Problem]:
    """A problem of at most `MOST_GAPS` gaps."""
    while True:
        ops, states = rng.randint(3, 9), rng.randint(2, 6)
        sizes = tuple(rng.randint(1, 60) * MIB for _ in range(states))
        uses = []
        for _ in range(states):
            at = sorted(rng.sample(range(ops), rng.randint(1, min(3, ops))))
            uses.append(tuple(Use(op=i, changes=rng.random() < 0.5, renews=rng.random() < 0.15) for i in at))
        ways = tuple(tuple(ways_of(rng)) for _ in range(ops))
        seconds = tuple((rng.choice((0.0, rng.uniform(0, 5))), rng.uniform(0, 5)) for _ in range(states))
        budget = rng.randint(max(sizes), sum(sizes) + 40 * MIB)
        case = Case(budget, sizes, tuple(uses), ways, seconds)
        problem = problem_of(case)
        if len(problem.gaps) <= MOST_GAPS:
            return case, problem


def ways_of(rng: random.Random) -> list[Way]:
    """The faster, the more room."""
    sizes = sorted({rng.randint(0, 40) * MIB for _ in range(rng.randint(1, 3))})
    return [Way(size, rng.uniform(0, 4) + 4 * (len(sizes) - i)) for i, size in enumerate(sizes)]


def problem_of(case: Case) -> Problem:
    """As the planner puts it, with one class of ranks."""
    gaps: list[Gap] = []
    writes: list[float] = []
    room = [case.budget - sum(case.sizes)] * len(case.ways)
    for size, uses, (write, read) in zip(case.sizes, case.uses, case.seconds, strict=True):
        for found in gaps_of(uses, len(case.ways)):
            written = None if found.renewed or found.version is None else len(writes) + found.version
            gaps.append(Gap(bytes=size, rows=found.idle, cost=0.0 if found.renewed else read, write=written))
        writes += [write] * len(uses)
    return Problem(
        room=tuple(room),
        works=tuple(Work((i,), ways) for i, ways in enumerate(case.ways)),
        gaps=tuple(gaps),
        writes=tuple(writes),
    )


def walked(case: Case, away: Sequence[frozenset[int]]) -> float | None:
    """Seconds of a step in which state s leaves the device after those of its uses that `away[s]` names.

    Three steps are walked, of which the last counts, with versions of what is on the device and below it: something
    is written back only where the version below is older, and brought back only where it is looked at: what an op makes
    anew it writes over what is there.
    """
    count = len(case.sizes)
    here = [len(uses) - 1 not in gone for uses, gone in zip(case.uses, away, strict=True)]
    now, below, total = [0] * count, [0] * count, 0.0
    for _ in range(3):
        total = 0.0
        for op, ways in enumerate(case.ways):
            at = {s: next((k for k, u in enumerate(case.uses[s]) if u.op == op), None) for s in range(count)}
            for s, k in at.items():
                if k is None or here[s]:
                    continue
                here[s] = True
                if not case.uses[s][k].renews:
                    assert below[s] == now[s], "what comes back is what went"
                    total += case.seconds[s][1]
            held = sum(size for size, on in zip(case.sizes, here, strict=True) if on)
            fitting = [w.seconds for w in ways if held + w.workspace <= case.budget]
            if not fitting:
                return None
            total += min(fitting)
            for s, k in at.items():
                if k is None:
                    continue
                use, following = case.uses[s][k], case.uses[s][(k + 1) % len(case.uses[s])]
                now[s] += use.changes or use.renews
                if k in away[s]:
                    if below[s] != now[s] and not following.renews:
                        total += case.seconds[s][0]
                        below[s] = now[s]
                    here[s] = False
    return total


def best_of(case: Case) -> float | None:
    """The least seconds of all ways to send states away after their uses."""
    choices = [range(1 << len(uses)) for uses in case.uses]
    found = []
    for chosen in product(*choices):
        away = [frozenset(k for k in range(len(u)) if c >> k & 1) for u, c in zip(case.uses, chosen, strict=True)]
        seconds = walked(case, away)
        if seconds is not None:
            found.append(seconds)
    return min(found, default=None)


def away_of(case: Case, choice: Choice) -> list[frozenset[int]]:
    """After which uses each state leaves, by the planner's gaps."""
    made, index = [], 0
    for uses in case.uses:
        found = gaps_of(uses, len(case.ways))
        made.append(frozenset(g.begin for i, g in enumerate(found) if index + i in choice.swapped))
        index += len(found)
    return made


def main(count: int = 500, seed: int = 0) -> int:
    """Compare, print, judge."""
    rng = random.Random(seed)
    makers = {
        "planner": choose,
        "greedy alone": greedy,
        "HiGHS": lambda p: choose(p, nodes=0),
    }
    over: dict[str, list[float]] = {name: [] for name in makers}
    seconds = dict.fromkeys(makers, 0.0)
    tried = feasible = wrong = 0
    while feasible < count:
        case, problem = drawn(rng)
        best = best_of(case)
        tried += 1
        feasible += best is not None
        for name, make in makers.items():
            begin = time.perf_counter()
            choice = make(problem)
            seconds[name] += time.perf_counter() - begin
            if (choice is None) != (best is None):
                wrong += 1
                continue
            if choice is None or best is None:
                continue
            real = walked(case, away_of(case, choice))
            # What does not fit in the walk, or takes another time there, is a fault of the model.
            wrong += real is None or abs(real - choice.seconds) > 1e-6 or choice.bound > best * (1 + 1e-6) + 1e-9
            over[name].append((choice.seconds - best) / best if best > 1e-9 else choice.seconds)
    print(f"{tried} problems, {feasible} of which can be solved; {wrong} wrong")
    for name, found in over.items():
        exact = sum(o < 1e-6 for o in found)
        print(
            f"{name:14} best in {exact} of {len(found)}, at most {max(found):.2%} above it, "
            f"{1000 * seconds[name] / tried:.1f} ms each"
        )
    failed = wrong or max(over["planner"]) > 0.05
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
