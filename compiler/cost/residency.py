"""Which states leave the device between which ops, and how each op is cut up, at the least seconds within a budget.

A state is used by some ops of the step, which repeats; between two uses lies a gap, in which the state stays or is
moved away and back. Each op can be run in a few ways, of which the faster want more room. A row is an op on a class of
ranks: what room it has grows with each gap over it that is swapped. So, with x of a gap, z of a way of an op, y of a
state's writing back:

    least   sum cost x + sum write y + sum seconds z
    where   in each row   room + sum bytes x >= sum workspace z,   of each op   sum z = 1,   x <= y of its state

Where a tier below has little room, what comes back from there must fit as well: with u of a state that does,

            on each shelf   sum bytes u <= its bytes,   x <= u of its state

Small problems are searched whole, with a bound; of larger ones HiGHS finds the best, where it is installed
(`rldsl[solver]`). Else a greedy choice stands, and how far it may be from the best is known by the bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

NODES = 1500
"""So many partial choices are looked at before the search gives up: some tens of milliseconds."""
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run an op: bytes beside the states, and seconds."""

    workspace: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """An op in its rows, with the ways to run it."""

    rows: tuple[int, ...]
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """A state of so many bytes is not used in `rows`; to move it away and back costs `cost` seconds.

    `write` is the index of what it costs besides to write back what has changed, once for all gaps that name it.
    """

    bytes: int
    rows: frozenset[int]
    cost: float
    write: int | None = None


@dataclass(frozen=True, slots=True)
class Shelf:
    """A tier below a class of ranks: so many `bytes` of a rank for the copies of states that come back from it.

    `states` are those that would: the bytes of each, and its gaps of which any, swapped, needs the copy.
    """

    bytes: int
    states: tuple[tuple[int, frozenset[int]], ...]

    def lacking(self, swapped: frozenset[int]) -> int:
        """Bytes that are too few."""
        kept = sum(size for size, gaps in self.states if not gaps.isdisjoint(swapped))
        return max(0, kept - self.bytes)


@dataclass(frozen=True)
class Problem:
    """`room` is what each row has beside all states; less than nothing where they do not fit."""

    room: tuple[int, ...]
    works: tuple[Work, ...]
    gaps: tuple[Gap, ...]
    writes: tuple[float, ...] = ()
    shelves: tuple[Shelf, ...] = ()

    @cached_property
    def over(self) -> tuple[tuple[int, ...], ...]:
        """The gaps over each row."""
        found: list[list[int]] = [[] for _ in self.room]
        for index, gap in enumerate(self.gaps):
            for row in gap.rows:
                found[row].append(index)
        return tuple(map(tuple, found))

    def free(self, swapped: Iterable[int]) -> list[int]:
        """Room in each row with these gaps swapped."""
        free = list(self.room)
        for index in swapped:
            for row in self.gaps[index].rows:
                free[row] += self.gaps[index].bytes
        return free

    def moved(self, swapped: Iterable[int]) -> float:
        """Seconds of the moves."""
        chosen = list(swapped)
        written = {self.gaps[i].write for i in chosen} - {None}
        return sum(self.gaps[i].cost for i in chosen) + sum(self.writes[w] for w in written if w is not None)

    def lacking(self, swapped: frozenset[int]) -> int:
        """Bytes that are too few on the shelf that lacks most."""
        return max((shelf.lacking(swapped) for shelf in self.shelves), default=0)

    def way(self, work: Work, free: Sequence[int]) -> int | None:
        """The fastest way that fits, the first of equals; None where none does."""
        room = min((free[r] for r in work.rows), default=0)
        fitting = [i for i, way in enumerate(work.ways) if not work.rows or way.workspace <= room]
        return min(fitting, key=lambda i: work.ways[i].seconds, default=None)

    def seconds(self, swapped: frozenset[int]) -> float | None:
        """Of all moves and ops; None where something does not fit."""
        if self.lacking(swapped):
            return None
        free = self.free(swapped)
        total = self.moved(swapped)
        for work in self.works:
            way = self.way(work, free)
            if way is None:
                return None
            total += work.ways[way].seconds
        return total

    def shortage(self, swapped: Iterable[int]) -> dict[int, int]:
        """By row, how many bytes its least demanding way lacks."""
        free = self.free(swapped)
        least = [(row, min(w.workspace for w in work.ways)) for work in self.works for row in work.rows]
        return {row: need - free[row] for row, need in least if need > free[row]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The gaps that are swapped, the way of each op, and what it costs; nothing costs less than `bound`."""

    swapped: frozenset[int]
    ways: tuple[int, ...]
    seconds: float
    bound: float
    solver: str

    @property
    def gap(self) -> float:
        """By what part the seconds may be above the least."""
        return max(0.0, self.seconds - self.bound) / self.seconds if self.seconds else 0.0


def choose(problem: Problem, *, nodes: int = NODES, highs: bool = True) -> Choice | None:
    """The best choice that can be found; None where none fits, which without shelves is then certain."""
    return solve(problem, nodes=nodes, highs=highs)[0]


def solve(
    problem: Problem, *, nodes: int = NODES, highs: bool = True, limit: float = float("inf")
) -> tuple[Choice | None, float]:
    """The best choice that can be found, and seconds that none is below: infinite where certainly none fits.

    With a `limit` none is looked for that takes as long, and `limit` is what none is below where there is none.
    """
    if problem.shortage(range(len(problem.gaps))):
        return None, float("inf")
    start, bound = _greedy(problem) if limit == float("inf") else None, least(problem)
    if start is not None and (not problem.seconds(start) or bound >= _total(problem, start) * (1 - _EXACT)):
        return _found(problem, start, _total(problem, start), "greedy")
    best, complete = _search(problem, start, nodes, limit)
    if complete:
        return (None, limit) if best is None else _found(problem, best, _total(problem, best), "search")
    if highs and (answer := _highs(problem)) is not None:
        swapped, proved = answer
        if (seconds := problem.seconds(swapped)) is not None:
            best = swapped if best is None else min((swapped, best), key=lambda s: _total(problem, s))
            return _found(problem, best, min(max(proved, bound), seconds), "highs")
    return (None, bound) if best is None else _found(problem, best, bound, "greedy")


def greedy(problem: Problem) -> Choice | None:
    """What stands without a search."""
    if problem.shortage(range(len(problem.gaps))):
        return None
    swapped = _greedy(problem)
    return None if swapped is None else _choice(problem, swapped, least(problem), "greedy")


def least(problem: Problem) -> float:
    """Seconds that no choice is below, without looking for one; infinite where none fits."""
    return _bound(problem, frozenset(), frozenset(range(len(problem.gaps))))


def _found(problem: Problem, swapped: frozenset[int], bound: float, solver: str) -> tuple[Choice, float]:
    made = _choice(problem, swapped, bound, solver)
    return made, made.bound


def _choice(problem: Problem, swapped: frozenset[int], bound: float, solver: str) -> Choice:
    """Without gaps that are swapped for nothing."""
    best = _total(problem, swapped)
    for index in sorted(swapped, key=lambda i: (problem.gaps[i].bytes, i)):
        without = problem.seconds(swapped - {index})
        if without is not None and without <= best:
            swapped, best = swapped - {index}, without
    free = problem.free(swapped)
    ways = tuple(way for work in problem.works if (way := problem.way(work, free)) is not None)
    return Choice(swapped=swapped, ways=ways, seconds=best, bound=min(bound, best), solver=solver)


def _total(problem: Problem, swapped: frozenset[int]) -> float:
    seconds = problem.seconds(swapped)
    assert seconds is not None, "what is compared fits"
    return seconds


def _greedy(problem: Problem) -> frozenset[int] | None:
    """Swap what relieves most for its cost until all fits; then undo, or do more, as long as that is faster.

    None where the shelves are full before all fits.
    """
    swapped: frozenset[int] = frozenset()
    while short := problem.shortage(swapped):
        left = _open(problem, swapped, frozenset(range(len(problem.gaps))) - swapped)
        if not left:
            return None
        swapped |= {max(left, key=lambda i: (_relief(problem, i, short, swapped), -i))}
    best = _total(problem, swapped)
    improved = True
    while improved:
        improved = False
        for index in range(len(problem.gaps)):
            other = swapped ^ {index}
            seconds = problem.seconds(other)
            if seconds is not None and seconds < best * (1 - _EXACT):
                swapped, best, improved = other, seconds, True
        for out, into in _exchanges(problem, swapped):
            seconds = problem.seconds((swapped - {out}) | {into})
            if seconds is not None and seconds < best * (1 - _EXACT):
                swapped, best, improved = (swapped - {out}) | {into}, seconds, True
                break
    return swapped


def _exchanges(problem: Problem, swapped: frozenset[int]) -> list[tuple[int, int]]:
    return [(out, into) for out in sorted(swapped) for into in range(len(problem.gaps)) if into not in swapped]


def _relief(problem: Problem, index: int, short: dict[int, int], swapped: frozenset[int]) -> float:
    gap = problem.gaps[index]
    relieved = sum(min(gap.bytes, lack) for row, lack in short.items() if row in gap.rows)
    cost = problem.moved(swapped | {index}) - problem.moved(swapped)
    return relieved / (cost + 1e-6)


def _bound(problem: Problem, swapped: frozenset[int], open_gaps: frozenset[int]) -> float:
    """No choice that swaps `swapped`, and of `open_gaps` some, costs less; infinite where none fits.

    Every op runs as fast as if all open gaps were swapped. In one row, the one where that tells most, those that make
    the room are paid for, in parts if need be; elsewhere they are free.
    """
    if problem.lacking(swapped):
        return float("inf")
    open_gaps = _open(problem, swapped, open_gaps)
    now, most = problem.free(swapped), problem.free(swapped | open_gaps)
    total, further = problem.moved(swapped), 0.0
    for work in problem.works:
        way = problem.way(work, most)
        if way is None:
            return float("inf")
        best = work.ways[way].seconds
        total += best
        for row in work.rows:
            here = min(
                w.seconds + _covering(problem, row, w.workspace - now[row], open_gaps)
                for w in work.ways
                if w.workspace <= most[row]
            )
            further = max(further, here - best)
    return total + further


def _open(problem: Problem, swapped: frozenset[int], gaps: frozenset[int]) -> frozenset[int]:
    """Those of `gaps` for which alone the shelves have room beside what is swapped."""
    if not problem.shelves:
        return gaps
    return frozenset(i for i in gaps if not problem.lacking(swapped | {i}))


def _covering(problem: Problem, row: int, lack: int, open_gaps: frozenset[int]) -> float:
    """The least seconds of moves, in parts if need be, that make so much room in a row."""
    if lack <= 0:
        return 0.0
    cost = 0.0
    here = [problem.gaps[i] for i in problem.over[row] if i in open_gaps]
    for gap in sorted(here, key=lambda g: g.cost / g.bytes):
        part = min(1.0, lack / gap.bytes)
        cost, lack = cost + part * gap.cost, lack - gap.bytes
        if lack <= 0:
            break
    return cost


def _search(
    problem: Problem, start: frozenset[int] | None, nodes: int, limit: float
) -> tuple[frozenset[int] | None, bool]:
    """The best choice, and whether all others below the limit have been ruled out; depth first, the greatest first."""
    order = sorted(range(len(problem.gaps)), key=lambda i: (-problem.gaps[i].bytes, i))
    best, looked = start, 0
    least = limit if start is None else _total(problem, start)
    stack: list[tuple[int, frozenset[int]]] = [(0, frozenset())]
    while stack:
        if looked == nodes:
            return best, False
        looked += 1
        depth, swapped = stack.pop()
        if _bound(problem, swapped, frozenset(order[depth:])) >= least * (1 - _EXACT):
            continue
        seconds = problem.seconds(swapped)
        if seconds is not None and seconds < least:
            best, least = swapped, seconds
        if depth < len(order):
            stack += [(depth + 1, swapped | {order[depth]}), (depth + 1, swapped)]
    return best, True


def _highs(problem: Problem) -> tuple[frozenset[int], float] | None:
    """The gaps that HiGHS swaps, and its bound; None where it is not installed, or finds nothing in a second."""
    from rldsl.compiler.cost.residency_highs import solve

    try:
        return solve(problem)
    except ImportError:
        return None
