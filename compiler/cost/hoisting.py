"""Where a state begins to come back in the background, so that other work hides the seconds that it takes.

Moves have been chosen; here none is added or left out. An onload begins before an earlier op than the one that needs
it, the latest from which the work in between takes as long as the move, or else one that hides the most of it. It
holds its memory from there on, so it passes no op that then would not fit, nor the offload of its own state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_LEAST = 1e-6
"""Seconds: the plan's own are rounded to these, and to hide less is worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """A state of so many bytes comes back before op number `before`, to the ranks of some `programs`.

    It may begin before op number `earliest` or any later one, and takes `seconds` of the link.
    """

    before: int
    earliest: int
    programs: tuple[int, ...]
    bytes: int
    seconds: float


class Hoisting:
    """Places for the onloads of a step.

    `work` has by program the seconds of each op that runs in every step, and `room` by program and op the bytes that
    are left; both shrink as places are taken. `cuts` are by program the ops right before which a move holds the program
    up: what is on its way there must arrive first, as moves share one link.
    """

    def __init__(
        self, work: Sequence[Sequence[float]], room: Mapping[tuple[int, int], int], cuts: Sequence[Iterable[int]]
    ) -> None:
        self._work = [list(each) for each in work]
        self.room = dict(room)
        self._cuts = [set(each) for each in cuts]

    def places(self, onloads: Sequence[Coming]) -> dict[int, int]:
        """By index of the onload the op before which it begins; not those that nothing can hide.

        Those that are needed last choose first, and take of the work before them what is nearest: the link then brings
        each as late as it may.
        """
        found: dict[int, int] = {}
        for index in sorted(range(len(onloads)), key=lambda i: -onloads[i].before):
            coming = onloads[index]
            place, end = self._best(coming)
            if place < coming.before:
                found[index] = place
                self._take(coming, place, end)
            else:
                for program in coming.programs:
                    self._cuts[program].add(coming.before)
        return found

    def _best(self, coming: Coming) -> tuple[int, int]:
        """The op before which to begin, and the one before which the work that hides it ends."""
        best, place, end = _LEAST, coming.before, coming.before
        upto, hidden = coming.before, dict.fromkeys(coming.programs, 0.0)
        for number in range(coming.before - 1, coming.earliest - 1, -1):
            if any(self.room.get((p, number), coming.bytes) < coming.bytes for p in coming.programs):
                break
            if any(number + 1 in self._cuts[p] for p in coming.programs):
                # A move that stops between two stretches of work is waited for: one of them has to hide it.
                upto, hidden = number + 1, dict.fromkeys(coming.programs, 0.0)
            for program in coming.programs:
                hidden[program] += self._work[program][number]
            least = min(coming.seconds, *hidden.values())
            if least > best:
                best, place, end = least, number, upto
            if least >= coming.seconds:
                break
        return place, end

    def _take(self, coming: Coming, place: int, end: int) -> None:
        for program in coming.programs:
            left = coming.seconds
            for number in range(coming.before - 1, place - 1, -1):
                if (program, number) in self.room:
                    self.room[program, number] -= coming.bytes
                if number < end:
                    taken = min(left, self._work[program][number])
                    self._work[program][number] -= taken
                    left -= taken
