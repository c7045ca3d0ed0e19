"""The numbers of a step: gathered op by op, brought together over all ranks at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.compiler.plan import AnyOp, ComputeOp, FreeOp, Plan
from rldsl.types import DType, FieldType, Reduce

COUNTS = ("prompts", "samples", "tokens", "response_tokens")
OWN_KEYS = frozenset({"step", "seconds", "tokens_per_s", *COUNTS})


def mean_fields(plan: Plan) -> tuple[str, ...]:
    """The computed f32 fields with one number a row: their means are logged, see `logged_as`."""
    computed = [name for op in plan.ops() if isinstance(op, ComputeOp) for name in op.writes]
    kinds = {f.name: FieldType.parse(f.type) for f in plan.fields}
    return tuple(n for n in dict.fromkeys(computed) if kinds[n].dtype is DType.F32 and not kinds[n].ragged)


def logged_as(field: str) -> str:
    """The key of a field's mean: its name, or `field/<name>` where the log has that key for something else."""
    return f"field/{field}" if field in OWN_KEYS else field


def reward_key(plan: Plan) -> str | None:
    """The key of the reward curve: that of `score`, else of the first field that has a mean."""
    fields = mean_fields(plan)
    return "score" if "score" in fields else next(map(logged_as, fields), None)


class StepMetrics:
    """One step's numbers on this rank: `seconds/<op>`, `<node>/<what the engine says>`, fields by `logged_as`.

    Every rank has the same slots in the same order, from the plan, so that one sum and one maximum over
    all ranks bring them together. What an engine reports is global already and kept as rank 0 has it.
    """

    def __init__(self, plan: Plan, comm: Comm) -> None:
        self._comm = comm
        self._means = mean_fields(plan)
        self._ops = tuple(op.id for op in plan.ops() if not isinstance(op, FreeOp))
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self._totals = dict.fromkeys(self._means, (0.0, 0))
        self._counts = dict.fromkeys(COUNTS, 0)
        self._seconds = dict.fromkeys(self._ops, 0.0)
        self._global: dict[str, float] = {}
        self._began = time.perf_counter()

    def add_field(self, name: str, values: Tensor) -> None:
        """f32[rows] of a computed field."""
        self._totals[name] = (float(values.double().sum()), len(values))

    def count(self, name: str, number: int) -> None:
        """Add to one of `COUNTS`."""
        self._counts[name] += number

    def add_global(self, node: str, numbers: Mapping[str, float]) -> None:
        """What an engine says, the same on every rank."""
        self._global |= {f"{node}/{name}": value for name, value in numbers.items()}

    @contextmanager
    def timing(self, op: AnyOp) -> Iterator[None]:
        """Seconds of `op`; the device is waited for, so that they are not the next op's."""
        if op.id not in self._seconds:
            yield
            return
        began = time.perf_counter()
        yield
        if self._comm.device.type == "cuda":
            torch.cuda.synchronize(self._comm.device)
        self._seconds[op.id] += time.perf_counter() - began

    @staticmethod
    def _reduced(numbers: list[float], reduce: Reduce) -> list[float]:
        reduced: list[float] = reduce(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return reduced

    def close(self, step: int) -> dict[str, float | None]:
        """The step's line, the same on every rank for what is reduced. Collective over the world.

        Means are over all rows of all ranks, seconds the slowest rank's; `tokens` are prompt and response.
        """
        seconds = [time.perf_counter() - self._began, *self._seconds.values()]
        pairs = [number for pair in self._totals.values() for number in pair]
        sums = self._reduced([*pairs, *self._counts.values()], self._comm.all_reduce)
        longest = self._reduced(seconds, self._comm.all_reduce_max)
        line: dict[str, float | None] = {"step": step, "seconds": longest[0]}
        for index, name in enumerate(self._means):
            total, rows = sums[2 * index : 2 * index + 2]
            line[logged_as(name)] = total / rows if rows else None
        counts = dict(zip(COUNTS, (int(n) for n in sums[2 * len(self._means) :]), strict=True))
        line |= {**counts, "tokens_per_s": counts["tokens"] / longest[0]}
        line |= {name: value if math.isfinite(value) else None for name, value in self._global.items()}
        return line | {f"seconds/{n}": s for n, s in zip(self._ops, longest[1:], strict=True)}


def node_of(op: AnyOp) -> str:
    """The name under which what an op reports is logged."""
    return op.node or op.id
