"""When the ops of one class of ranks run: in order, but for what is in the background.

Moves share one link, and transfers of weights one thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, SyncWeightsOp, WaitOp


@dataclass(slots=True)
class Lane:
    """The clock of a class of ranks, in seconds.

    `now` is when the next op may begin, `link` when the way to the tiers below is free: one move follows the other,
    also where one goes to the host's memory and one to a disk.
    `thread` is when the thread for transfers in the background is free: it does one after the other. `begun` has those
    that other ranks have not begun, and when this one has.
    """

    now: float = 0.0
    link: float = 0.0
    thread: float = 0.0
    begun: dict[str, float] = field(default_factory=dict)
    _ends: dict[str, float] = field(default_factory=dict)

    def run(self, op: AnyOp, lasting: float) -> tuple[float, float]:
        """From when to when an op of so many seconds runs; a wait lasts until what it waits for has ended."""
        begin = self.now
        if isinstance(op, WaitOp):
            end = max(begin, self._ends.pop(op.begun, begin))
        elif isinstance(op, OnloadOp | OffloadOp) and lasting:
            begin = max(begin, self.link)
            end = self.link = begin + lasting
        else:
            end = begin + lasting
        if isinstance(op, OnloadOp) and op.background:
            self._ends[op.id] = end
        else:
            self.now = end
        return begin, end

    def begin(self, op: SyncWeightsOp) -> None:
        """Begin a transfer in the background."""
        self.begun[op.id] = self.now

    def carry(self, op: SyncWeightsOp, end: float) -> None:
        """All of its ranks have begun this transfer, and it ends then."""
        del self.begun[op.id]
        self.thread = self._ends[op.id] = end
