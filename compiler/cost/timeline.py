"""When each op of each program runs, from how long each takes."""

from __future__ import annotations

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
        self._sharing = {
            op.id: [p.first for p in plan.programs if any(o.id == op.id for o in p.ops)]
            for op in plan.ops()
            if op.collective
        }
        self._lanes = {first: Lane() for first in self._coming}
        self._beside = dict.fromkeys(self._coming, 0.0)
        # Of transfers in the background, by step and name: who has begun them when, and when they have arrived.
        self._begun: dict[tuple[int, str], dict[int, float]] = {}
        self._arrived: dict[tuple[int, str], float] = {}
        self._transfers = {op.id for op in plan.ops() if isinstance(op, SyncWeightsOp) and op.background}
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
        if op.id in self._transfers:
            self._begin(first, step, op)
        elif isinstance(op, WaitOp) and op.begun in self._transfers:
            if (step, op.begun) not in self._arrived:
                return False
            lane = self._lanes[first]
            begin, lane.now = lane.now, max(lane.now, self._arrived[step, op.begun])
            self._ran(first, step, op.id, begin, lane.now)
        else:
            together = self._sharing.get(op.id, [first])
            if not all(self._is_at(f, step, op) for f in together):
                return False
            latest = max(self._lanes[f].now for f in together)
            for each in together:
                self._lanes[each].now = latest
                self._ran(each, step, op.id, *self._lanes[each].run(op, self._lasting[op.id]))
        return True

    def _is_at(self, first: int, step: int, op: AnyOp) -> bool:
        """Whether a program comes to this op next."""
        if not self._coming[first]:
            return False
        there, coming = self._coming[first][-1]
        return (there, coming.id) == (step, op.id)

    def _begin(self, first: int, step: int, op: AnyOp) -> None:
        begun = self._begun.setdefault((step, op.id), {})
        begun[first] = self._lanes[first].now
        self._coming[first].pop()
        together = self._sharing.get(op.id, [first])
        if len(begun) < len(together):
            return
        begin = max(*(begun[f] for f in together), *(self._beside[f] for f in together))
        end = self._arrived[step, op.id] = begin + self._lasting[op.id]
        self._beside |= dict.fromkeys(together, end)
        self._found += [Timed(first=f, step=step, op=op.id, begin=begin, end=end) for f in together]

    def _ran(self, first: int, step: int, op: str, begin: float, end: float) -> None:
        """A program has done its next op, or begun it where it is a move in the background."""
        self._found.append(Timed(first=first, step=step, op=op, begin=begin, end=end))
        self._coming[first].pop()
