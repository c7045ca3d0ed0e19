"""Memory and seconds as they were measured in a run, beside what the plan predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rldsl.backends.keys import memory_key
from rldsl.compiler.plan import MemoryPlan, Plan
from rldsl.render.memory import lasting
from rldsl.render.run import Run
from rldsl.render.words import duration

_MIB = 1 << 20
_SHOWN = 0.1


@dataclass(frozen=True, slots=True)
class _Op:
    """Bytes of a rank and seconds of a step, measured and predicted; 0 where nothing is known."""

    name: str
    bytes: float
    bytes_predicted: int
    seconds: float
    seconds_predicted: float

    @property
    def words(self) -> tuple[str, ...]:
        """The cells of a line."""
        times = (f"{s:,.2f}" if s else "" for s in (self.seconds, self.seconds_predicted))
        known = self.bytes or self.bytes_predicted
        return (self.name, *(_mib(b) if known else "" for b in (self.bytes, self.bytes_predicted)), *times)


def measured_lines(plan: Plan, history: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """What a rank took at its peak and how long a step lasted, with the predictions, then the same op by op.

    Of memory the most of all steps, of seconds the median of the steps that ran the op. Ops that have less than a tenth
    of either are left out. Nothing for plans without a budget. What libraries take is in what was measured, and what
    the plan sets aside for them in what it predicted.
    """
    memory = plan.memory
    if memory is None or not history:
        return
    ops = _ops(plan, memory, history)
    peak, step = max((op.bytes for op in ops), default=0.0), _median(history, "seconds")
    if peak:
        at = max(ops, key=lambda op: op.bytes).name
        predictions = f"{_mib(memory.peak)} predicted, at {memory.peak_op}"
        yield f"memory: {_mib(peak)} of {_mib(memory.budget)} MiB at {at}; {predictions}"
    if step:
        of = f" (median of {len(history)} steps)" if len(history) > 1 else ""
        yield f"seconds: {duration(step)} a step{of}; {duration(_step(plan))} predicted"
    shown = [
        op for op in ops if _great(op.bytes, op.bytes_predicted, peak) or _great(op.seconds, op.seconds_predicted, step)
    ]
    if shown:
        yield from _table([("a rank", "MiB", "predicted", "seconds", "predicted"), *(op.words for op in shown)])


def _ops(plan: Plan, memory: MemoryPlan, history: Sequence[Mapping[str, float]]) -> list[_Op]:
    """In the order of the plan: those of which bytes or seconds are predicted."""
    sizes: dict[str, int] = {}
    for told in memory.ops:
        sizes[told.op] = max(sizes.get(told.op, 0), told.workspace + told.resident + memory.reserve)
    times = lasting(plan)
    return [
        _Op(
            op.id,
            max(line.get(memory_key(op.id), 0.0) for line in history),
            sizes.get(op.id, 0),
            _median(history, f"seconds/{op.id}"),
            times.get(op.id, 0.0),
        )
        for op in plan.ops()
        if op.id in sizes or op.id in times
    ]


def _median(history: Sequence[Mapping[str, float]], name: str) -> float:
    """Of the steps in which it is not 0: what does not run has no seconds."""
    return median([value for line in history if (value := line.get(name, 0.0))] or [0.0])


def _step(plan: Plan) -> float:
    """Seconds from a step's begin to the last rank's end, collectives begun when their last rank is there."""
    return max((ran[-1].end.seconds for ran in Run(plan).ran if ran), default=0.0)


def _great(measured: float, predicted: float, whole: float) -> bool:
    return whole > 0 and max(measured, predicted) >= _SHOWN * whole


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"  {name:<{widths[0]}}  {'  '.join(numbers)}".rstrip()


def _mib(count: float) -> str:
    return f"{count / _MIB:,.0f}"
