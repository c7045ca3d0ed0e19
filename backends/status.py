"""What a rank is doing right now: set by the executor, read by collectives and by the watch thread."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Status:
    """The current op of one rank. Plain attributes: a reader in another thread sees one or the next value.

    `step` counts from 0, as in metrics.jsonl; people are told it as the console counts, from 1.
    """

    rank: int = 0
    world_size: int = 1
    step: int = -1
    steps: int = 0
    op: str = ""
    node: str = ""
    since: float = field(default_factory=time.monotonic)

    def enter(self, *, step: int, op: str, node: str | None) -> None:
        """Say that `op` of `node` begins in `step`."""
        self.step, self.op, self.node, self.since = step, op, node or op, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds in this op."""
        return time.monotonic() - self.since

    @property
    def step_words(self) -> str:
        """`step 4 of 30`."""
        return step_words(self.step, self.steps)

    def where(self) -> str:
        """Such as "op `update` of node `update`, step 4 of 30"; before the first step, `start-up`."""
        return place(self.op, self.node, self.step, self.steps)


def step_words(step: int, steps: int) -> str:
    """What people are told of the step that counts as `step` from 0; `steps` 0 stands for a number not known."""
    return f"step {step + 1}" + (f" of {steps}" if steps else "")


def place(op: str, node: str, step: int, steps: int) -> str:
    """The words for a place in a run; a step below 0 is before the first."""
    if step < 0:
        return f"op `{op}`, before the first step" if op else "start-up, before the first step"
    return f"op `{op}`" + (f" of node `{node}`" if node != op else "") + f", {step_words(step, steps)}"
