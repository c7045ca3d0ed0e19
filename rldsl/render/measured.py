"""Memory as it was measured in a run, beside what the plan predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rldsl.backends.keys import memory_key
from rldsl.compiler.plan import Plan

_MIB = 1 << 20
_SHOWN = 0.1


def measured_lines(plan: Plan, history: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """The most of all steps of each op that took a tenth of the peak or more, in MiB a rank, and the prediction.

    Nothing for plans without a budget. What libraries take is in what was measured, and what the plan sets aside for
    them in what it predicted.
    """
    memory = plan.memory
    if memory is None or not history:
        return
    predicted: dict[str, int] = {}
    for told in memory.ops:
        predicted[told.op] = max(predicted.get(told.op, 0), told.workspace + told.resident + memory.reserve)
    found = {op: max(line.get(memory_key(op), 0.0) for line in history) for op in predicted}
    peak = max(found.values(), default=0.0)
    if not peak:
        return
    at = max(found, key=lambda op: found[op])
    predictions = f"{_mib(memory.peak)} predicted, at {memory.peak_op}"
    yield f"memory: {_mib(peak)} of {_mib(memory.budget)} MiB at {at}; {predictions}"
    width = max(map(len, found))
    yield f"  {'MiB of a rank':<{width}}  measured  predicted"
    for op, most in found.items():
        if max(most, predicted[op]) >= _SHOWN * peak:
            yield f"  {op:<{width}}  {_mib(most):>8}  {_mib(predicted[op]):>9}"


def _mib(count: float) -> str:
    return f"{count / _MIB:,.0f}"
