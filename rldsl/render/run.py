"""When each op of a plan runs on each class of ranks: by predicted seconds where the plan has them, else in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rldsl.compiler.ops import AnyOp, FreeOp, WaitOp, in_background
from rldsl.compiler.plan import Plan
from rldsl.render.facts import in_order
from rldsl.render.memory import lasting, waits_of


class Time(NamedTuple):
    """So many seconds after the begin, and behind so many ops without known seconds, which have an order alone."""

    seconds: float = 0.0
    ticks: int = 0

    def later(self, lasting: Time) -> Time:
        """So much later."""
        return Time(self.seconds + lasting.seconds, self.ticks + lasting.ticks)


_TICK = Time(ticks=1)


class Ran(NamedTuple):
    """An op, number `number` of its program, runs from `begin` to `end`, and its ranks wait for others from `came` on.

    `late` are the programs of those others. One in the background only begins then, and goes on until `until`.
    """

    op: AnyOp
    number: int
    came: Time
    begin: Time
    end: Time
    late: tuple[int, ...] = ()
    until: Time | None = None


class Run:
    """Every op begun as early as its ranks can, a collective when its last ranks are there; `ran` by program."""

    def __init__(self, plan: Plan) -> None:
        self._seconds: Mapping[str, float] = lasting(plan)
        # How long moves in the background are waited for: they share a link, and so follow one another.
        moves = plan.memory.hidden if plan.memory is not None else {}
        self._left = {w.begun: self._seconds.get(w.id, 0.0) for w in waits_of(plan) if w.begun in moves}
        self._numbers = [{op.id: i for i, op in enumerate(p.ops)} for p in plan.programs]
        self.ran: list[list[Ran]] = [[] for _ in plan.programs]
        self._clock = [Time()] * len(plan.programs)
        # Of what runs in the background: when the last of its ranks begin it, which these are, and when it is done.
        self._begun: dict[tuple[int, str], tuple[Time, tuple[int, ...], Time]] = {}
        # Its place among those that have run, to be told how long it went on.
        self._places: dict[tuple[int, str], int] = {}
        holders: dict[str, list[int]] = {}
        for index, program in enumerate(plan.programs):
            for op in program.ops:
                holders.setdefault(op.id, []).append(index)
        for each in in_order(plan):
            if not isinstance(each, FreeOp):
                self._run(each, holders[each.id])

    def during(self, program: int, begin: Time, end: Time) -> Sequence[Ran]:
        """What the ranks of a program run between two times."""
        ran = self.ran[program]
        return ran[bisect_right(ran, begin, key=_end) : bisect_left(ran, end, key=_begin)]

    def _run(self, op: AnyOp, holders: Sequence[int]) -> None:
        if in_background(op):
            self._start(op, holders)
            return
        lasting = self._lasting(op)
        latest = max(self._clock[p] for p in holders)
        late = tuple(p for p in holders if self._clock[p] == latest)
        for p in holders:
            came = self._clock[p]
            if isinstance(op, WaitOp):
                self._wait(op, p)
            elif op.collective and came < latest:
                self._add(op, p, Ran(op, self._numbers[p][op.id], came, latest, latest.later(lasting), late))
            else:
                self._add(op, p, Ran(op, self._numbers[p][op.id], came, came, came.later(lasting)))

    def _start(self, op: AnyOp, holders: Sequence[int]) -> None:
        """It begins without waiting for other ranks, but is done only when these have begun it too."""
        latest = max(self._clock[p] for p in holders)
        late = tuple(p for p in holders if self._clock[p] == latest)
        for p in holders:
            came = self._clock[p]
            last, ranks = (latest, late) if op.collective else (came, (p,))
            done = last.later(self._lasting(op))
            self._begun[p, op.id] = last, ranks, done
            self._places[p, op.id] = len(self.ran[p])
            self._add(op, p, Ran(op, self._numbers[p][op.id], came, came, came.later(_TICK), until=done))

    def _wait(self, op: WaitOp, p: int) -> None:
        came = self._clock[p]
        last, late, done = self._begun.get((p, op.begun), (came, (), came))
        if op.begun in self._left:
            done = came.later(Time(self._left[op.begun]))
        begin = max(came, last)
        late = late if begin > came else ()
        self._add(op, p, Ran(op, self._numbers[p][op.id], came, begin, max(begin, done).later(_TICK), late))
        if (p, op.begun) in self._places:
            place = self._places[p, op.begun]
            begun = self.ran[p][place]
            known = op.begun in self._seconds
            self.ran[p][place] = begun._replace(until=min(done, came) if known else came)

    def _add(self, op: AnyOp, p: int, ran: Ran) -> None:
        self.ran[p].append(ran)
        self._clock[p] = ran.end

    def _lasting(self, op: AnyOp) -> Time:
        seconds = self._seconds.get(op.id, 0.0)
        return Time(seconds) if seconds > 0 else _TICK


def _begin(ran: Ran) -> Time:
    return ran.begin


def _end(ran: Ran) -> Time:
    return ran.end
