"""When each op of each program runs, from how long each takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rldsl.compiler.cost.lanes import Lane
from rldsl.compiler.ops import AnyOp, SyncWeightsOp, WaitOp
from rldsl.compiler.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One op of the program of the ranks from `first` on: when it begins and ends, in seconds from the start.

    A transfer or a move in the background lasts until it has arrived, beside the ops behind it.
    """

    first: int
    step: int
    op: str
    begin: float
    end: float


class Timeline:
    """Some steps of `plan`, whose ops last so many seconds: in order, a collective when the last of its ranks comes.

    Transfers in the background run on a thread of each rank, one after the other, from when the last of their ranks has
    begun them.
    """

    def __init__(self, plan: Plan, lasting: Mapping[str, float], steps: int) -> None:
        self._lasting = lasting
        self._coming = {p.first: [(k, op) for k in range(steps) for op in p.ops][::-1] for p in plan.programs}
        self._lanes = {first: Lane() for first in self._coming}
        # Of each op that ranks run together, the programs that have it.
        self._sharing: defaultdict[str, list[int]] = defaultdict(list)
        for program in plan.programs:
            for op in program.ops:
                if op.collective:
                    self._sharing[op.id].append(program.first)
        self._found: list[Timed] = []

    def ops(self) -> tuple[Timed, ...]:
        """All ops of all steps, as they come about."""
        while any(self._coming.values()):
            moved = False
            for first, mine in self._coming.items():
                while mine and self._run(first, *mine[-1]):
                    moved = True
            assert moved, "a verified plan has no deadlock"
        return tuple(self._found)

    def _run(self, first: int, step: int, op: AnyOp) -> bool:
        """The next op of a program, if it can run by now."""
        if isinstance(op, SyncWeightsOp) and op.background:
            self._begin(first, step, op)
            return True
        if isinstance(op, WaitOp) and op.begun in self._lanes[first].begun:
            return False
        together = self._sharing.get(op.id, [first])
        if not all(self._is_at(f, step, op) for f in together):
            return False
        latest = max(self._lanes[f].now for f in together)
        for each in together:
            self._lanes[each].now = latest
            self._ran(each, step, op, *self._lanes[each].run(op, self._lasting[op.id]))
            self._coming[each].pop()
        return True

    def _is_at(self, first: int, step: int, op: AnyOp) -> bool:
        """Whether a program comes to this op next."""
        if not self._coming[first]:
            return False
        there, coming = self._coming[first][-1]
        return (there, coming.id) == (step, op.id)

    def _begin(self, first: int, step: int, op: SyncWeightsOp) -> None:
        """A program goes on; the transfer runs once the last of its ranks has begun it."""
        self._lanes[first].begin(op)
        self._coming[first].pop()
        together = self._sharing.get(op.id, [first])
        lanes = [self._lanes[f] for f in together]
        if not all(op.id in lane.begun for lane in lanes):
            return
        begin = max(max(lane.begun[op.id], lane.thread) for lane in lanes)
        end = begin + self._lasting[op.id]
        for each, lane in zip(together, lanes, strict=True):
            lane.carry(op, end)
            self._ran(each, step, op, begin, end)

    def _ran(self, first: int, step: int, op: AnyOp, begin: float, end: float) -> None:
        self._found.append(Timed(first=first, step=step, op=op.id, begin=begin, end=end))
