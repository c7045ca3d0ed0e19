"""Which states go to the last tier below the device, where the nearest one has not room for all that come back.

A state lies on one tier, whole. With a set of them on the last tier the residency problem is solved with the seconds
of that tier for these, and with the bytes of both tiers as limits. Of few states every set is tried that can still be
the best; of more, sets are grown and changed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rldsl.compiler.cost.footprints import Key
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.residency import Choice, Problem, Shelf, choose, least, solve
from rldsl.compiler.cost.time_model import move_seconds

MOST = 8
"""Of so many states, which have 256 sets, all are tried."""
_EXACT = 1e-9

Pose = Callable[[frozenset[Key]], Problem]
"""The problem with these states on the last tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returning:
    """A state of so many bytes on the ranks of some `programs`, which comes back from its `gaps`, by their number.

    `writes` are the numbers of what it costs to write it.
    """

    key: Key
    bytes: int
    programs: Collection[int]
    gaps: frozenset[int]
    writes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """The tiers of `hardware` below the ranks of so many programs, and the states that may come back from them."""

    hardware: Hardware
    states: Sequence[Returning]
    programs: int

    def posed(self, problem: Problem, below: frozenset[Key]) -> Problem:
        """`problem`, whose seconds are those of the nearest tier, with the states `below` on the last one."""
        gaps, writes = list(problem.gaps), list(problem.writes)
        for state in self.states:
            if state.key in below:
                seconds = move_seconds(self.hardware, state.bytes, self.hardware.tiers[-1].tier)
                for index in state.gaps:
                    gaps[index] = replace(gaps[index], cost=seconds)
                for index in state.writes:
                    writes[index] = seconds
        return replace(problem, gaps=tuple(gaps), writes=tuple(writes), shelves=tuple(self._shelves(below)))

    def _shelves(self, below: frozenset[Key]) -> Iterable[Shelf]:
        first, *others = self.hardware.tiers
        for program in range(self.programs):
            mine = [s for s in self.states if program in s.programs]
            yield Shelf(first.bytes, tuple((s.bytes, s.gaps) for s in mine if s.key not in below))
            for last in others:
                yield Shelf(last.bytes, tuple((s.bytes, s.gaps) for s in mine if s.key in below))

    def lacking(self, problem: Problem, swapped: frozenset[int]) -> int:
        """Bytes that the nearest tier has too few, on some rank, where all lie there that come back."""
        return self.posed(problem, frozenset()).lacking(swapped)

    def choose(self, problem: Problem, free: Choice, *, highs: bool = True) -> tuple[frozenset[Key], Choice] | None:
        """The states on the last tier, and the choice; None where none is found that fits. `free` keeps to no tier."""
        keys = [s.key for s in self.states] if len(self.hardware.tiers) > 1 else []
        found = choose_below(keys, lambda below: self.posed(problem, below), free, highs=highs)
        if found is None:
            return None
        below, choice = found
        # What stays, or is dropped and made anew, lies nowhere.
        return below & {s.key for s in self.states if not s.gaps.isdisjoint(choice.swapped)}, choice


def choose_below(
    keys: Sequence[Key], pose: Pose, free: Choice, *, most: int = MOST, highs: bool = True
) -> tuple[frozenset[Key], Choice] | None:
    """Of these states those on the last tier, and the choice with which a step is shortest; None if none is found.

    `free` is the choice where the nearest tier has room for all. With at most `most` states no other set and choice is
    better by more than the choice's gap.
    """
    return _of_all(keys, pose, free, highs) if len(keys) <= most else _one_by_one(keys, pose, free)


def _of_all(keys: Sequence[Key], pose: Pose, free: Choice, highs: bool) -> tuple[frozenset[Key], Choice] | None:
    """Sets in the order of what none of their choices is below, until no further one can be better.

    Only choices count in which all states of the set come back: others are those of a smaller set. Such a choice takes
    what the free one takes, and the further seconds of the set's states.
    """
    sets = [frozenset(each) for count in range(len(keys) + 1) for each in combinations(keys, count)]
    nearest = pose(frozenset())
    needed, further = _needed(nearest), {key: _further(nearest, pose(frozenset({key}))) for key in keys}
    posed = [(below, problem) for below in sets if not (problem := pose(below)).lacking(needed)]
    ordered = sorted(
        (max(least(problem), free.bound + sum(further[key] for key in below)), index)
        for index, (below, problem) in enumerate(posed)
    )
    best: tuple[frozenset[Key], Choice] | None = None
    bound = float("inf")
    for lower, index in ordered:
        if lower == float("inf") or (best is not None and lower >= best[1].seconds * (1 - _EXACT)):
            break
        below, problem = posed[index]
        choice, proved = solve(problem, highs=highs, limit=float("inf") if best is None else best[1].seconds)
        bound = min(bound, proved)
        if choice is not None and (best is None or choice.seconds < best[1].seconds * (1 - _EXACT)):
            best = below, choice
    return best and (best[0], replace(best[1], bound=min(bound, best[1].seconds)))


def _needed(problem: Problem) -> frozenset[int]:
    """The gaps without which, whatever else is swapped, something does not fit."""
    every = frozenset(range(len(problem.gaps)))
    return frozenset(i for i in every if problem.shortage(every - {i}))


def _further(near: Problem, low: Problem) -> float:
    """The least seconds by which a state that is lower in `low` takes longer to come back, and to be written for it."""
    further = (
        b.cost - a.cost + (0.0 if a.write is None else low.writes[a.write] - near.writes[a.write])
        for a, b in zip(near.gaps, low.gaps, strict=True)
        if a.cost != b.cost
    )
    return min(further, default=0.0)


def _one_by_one(keys: Sequence[Key], pose: Pose, free: Choice) -> tuple[frozenset[Key], Choice] | None:
    """States go down until all fits, first those that cost least by the byte; then one by one as long as that helps."""
    below, left = frozenset[Key](), list(keys)
    while (best := choose(pose(below), highs=False)) is None and left:
        now = pose(below)
        left.sort(key=lambda key: _dearer(now, pose(below | {key}), free.swapped), reverse=True)
        below |= {left.pop()}
    if best is None:
        return None
    improved = True
    while improved:
        improved = False
        for key in keys:
            other = choose(pose(below ^ {key}), highs=False)
            if other is not None and other.seconds < best.seconds * (1 - _EXACT):
                below, best, improved = below ^ {key}, other, True
    return below, replace(best, bound=min(free.bound, best.seconds), solver="greedy")


def _dearer(now: Problem, then: Problem, swapped: frozenset[int]) -> tuple[bool, float]:
    """Whether a state that went down frees nothing, and else the further seconds for each byte freed."""
    freed = sum(a.lacking(swapped) - b.lacking(swapped) for a, b in zip(now.shelves, then.shelves, strict=True))
    return freed <= 0, (then.moved(swapped) - now.moved(swapped)) / max(1, freed)
