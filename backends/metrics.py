"""The numbers of a step: gathered op by op, brought together over all ranks at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Drawn
from rldsl.backends.engines.memory import Meter
from rldsl.backends.keys import COUNTS, ROLLOUT, logged_as, mean_fields, memory_key
from rldsl.compiler.ops import AnyOp, ExtendOp, FreeOp, GenerateOp, LoadOp, MetricOp, Reduction, TakeOp
from rldsl.compiler.plan import Group, Plan
from rldsl.types import Reduce

_SAMPLING = (GenerateOp, ExtendOp)
_FACTS = 4  # of a rollout: rows, tokens, rows cut off, surprise


@dataclass(slots=True)
class _Tally:
    """What is known of a metric's numbers, float64: enough for every reduction. `squares` is about their mean."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, values: Tensor) -> None:
        """More numbers, of any shape and dtype. Squares as Chan, Golub and LeVeque (1979) add those of two sets."""
        if not values.numel():
            return
        numbers = values.double()
        count, total = numbers.numel(), float(numbers.sum())
        mean = total / count
        apart = mean - self.total / self.count if self.count else 0.0
        self.squares += float((numbers - mean).square().sum()) + apart**2 * count * self.count / (count + self.count)
        self.count, self.total = self.count + count, self.total + total
        self.least, self.most = min(self.least, float(numbers.min())), max(self.most, float(numbers.max()))


class Part(NamedTuple):
    """What one rank knows of a step: what is to be summed over ranks, and of what the maximum is wanted.

    `tallies` has count, total and squares about their mean of each metric; `said` by node what engines told, which is
    the same on all ranks that have it.
    """

    sums: list[float]
    most: list[float]
    tallies: list[tuple[int, float, float]]
    said: dict[str, dict[str, float]]

    def squares_about(self, centers: Sequence[float]) -> list[float]:
        """Of each metric the sum of squared distances from its center."""
        found = zip(self.tallies, centers, strict=True)
        return [squares + count * (total / count - c) ** 2 if count else 0.0 for (count, total, squares), c in found]


class StepMetrics:
    """One step's numbers on this rank: `seconds/<op>`, `<node>/<what the engine says>`, fields, metrics.

    Where the plan has a budget, `memory/<op>` too: the bytes that the op takes at its worst on any rank.

    Every rank has the same slots in the same order, from the plan, so that one sum and one maximum over
    all ranks bring them together. What an engine reports is global already. Of ranks that hold copies of the same
    rows the first counts them.
    """

    def __init__(self, plan: Plan, comm: Comm) -> None:
        self._comm = comm
        self._means = mean_fields(plan)
        self._ops = tuple(op.id for op in plan.ops() if not isinstance(op, FreeOp))
        self._reductions = {op.name: op.reduction for op in plan.ops() if isinstance(op, MetricOp)}
        self._samplers = tuple(dict.fromkeys(node_of(op) for op in plan.ops() if isinstance(op, _SAMPLING)))
        # A prompt set whose columns are loaded by several ops, even by other ranks, counts once.
        blocks = {_block(op): op.id for op in reversed([*plan.ops()]) if isinstance(op, LoadOp)}
        self._counting_loads = frozenset(blocks.values())
        self._first = {g.name: is_first(g, comm.rank, comm.world_size) for g in plan.groups}
        self._speakers = list(dict.fromkeys(_speaker(op) for op in plan.ops()))
        self._counts_rows = True
        # Memory is measured where there is a budget to compare it with.
        told = () if plan.memory is None else plan.memory.ops
        self._measured = tuple(dict.fromkeys(m.op for m in told))
        self._meter = Meter(comm.device) if told else None
        # What a loss measures is known once it has been called; from then on every line has the key.
        self._seen: dict[str, None] = {}
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self._totals = dict.fromkeys(self._means, (0.0, 0))
        self._tallies = {name: _Tally() for name in self._reductions}
        self._rollouts = {node: [0.0] * _FACTS for node in self._samplers}
        self._counts = dict.fromkeys(COUNTS, 0)
        self._seconds = dict.fromkeys(self._ops, 0.0)
        self._memory = dict.fromkeys(self._measured, 0)
        self._said: dict[str, dict[str, float]] = {}
        self._began = time.perf_counter()

    def add_field(self, name: str, values: Tensor) -> None:
        """[rows] of a computed field, if its mean is logged."""
        if name in self._totals and self._counts_rows:
            self._totals[name] = (float(values.double().sum()), len(values))

    def add_metric(self, op: MetricOp, values: Tensor) -> None:
        """This rank's numbers for `op`; ops with one name have one metric over the numbers of all."""
        if self._counts_rows:
            self._tallies[op.name].add(values)

    def add_rollout(self, op: GenerateOp | ExtendOp, drawn: Drawn) -> None:
        """What `op` has sampled on this rank."""
        if not self._counts_rows:
            return
        facts = (drawn.rows, drawn.tokens, drawn.cut, drawn.surprise)
        self._rollouts[node_of(op)] = [a + b for a, b in zip(self._rollouts[node_of(op)], facts, strict=True)]

    def count(self, name: str, number: int) -> None:
        """Add to one of `COUNTS`."""
        self._counts[name] += number if self._counts_rows else 0

    def count_prompts(self, op: LoadOp, rows: int) -> None:
        """What `op` has loaded; columns of one prompt set, `prompts` and `answers`, or `test.prompts`, count once."""
        if op.id in self._counting_loads:
            self.count("prompts", rows)

    def add_global(self, node: str, numbers: Mapping[str, float]) -> None:
        """What an engine says, the same on every rank of its group."""
        self._said[node] = {**numbers}

    @contextmanager
    def timing(self, op: AnyOp) -> Iterator[None]:
        """Seconds of `op`; the device is waited for, so that they are not the next op's."""
        self._counts_rows = self._first.get(op.group, True)
        if op.id not in self._seconds:
            yield
            return
        meter = self._meter if op.id in self._memory else None
        if meter is not None:
            meter.begin()
        began = time.perf_counter()
        try:
            yield
            if self._comm.device.type == "cuda":
                torch.cuda.synchronize(self._comm.device)
            self._seconds[op.id] += time.perf_counter() - began
        finally:
            if meter is not None:  # also of an op that fails: its thread, if it has one, must end
                self._memory[op.id] = max(self._memory[op.id], meter.end() or 0)

    def add_seconds(self, op: str, seconds: float) -> None:
        """What the op `op` has taken in the background, beside others."""
        self._seconds[op] += seconds

    @staticmethod
    def _reduced(numbers: list[float], reduce: Reduce) -> list[float]:
        reduced: list[float] = reduce(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return reduced

    def part(self) -> Part:
        """This rank's numbers of the step, which ends now."""
        elapsed = time.perf_counter() - self._began
        tallies = list(self._tallies.values())
        pairs = [*self._totals.values(), *((t.total, t.count) for t in tallies)]
        ends = [end for t in tallies for end in (-t.least, t.most)]
        rollouts = [n for facts in self._rollouts.values() for n in facts]
        return Part(
            sums=[*self._counts.values(), *rollouts, *(n for pair in pairs for n in pair)],
            most=[elapsed, *self._seconds.values(), *ends, *self._memory.values()],
            tallies=[(t.count, t.total, t.squares) for t in tallies],
            said=self._said,
        )

    def close(self, step: int) -> dict[str, float | None]:
        """The step's line, see `line`, the same on every rank for what is reduced. Collective over the world."""
        part = self.part()
        sums = self._reduced(part.sums, self._comm.all_reduce)
        most = self._reduced(part.most, self._comm.all_reduce_max)
        squares = part.squares_about(self._means_of(sums))
        if Reduction.STD in self._reductions.values():
            # About the global means, which had to be known first.
            squares = self._reduced(squares, self._comm.all_reduce)
        return self._line(step, sums, most, squares, part.said)

    def line(self, step: int, parts: Sequence[Part]) -> dict[str, float | None]:
        """The step's line from the numbers of all ranks.

        Means are over all rows of all ranks, seconds the slowest rank's; `tokens` are prompt and response. Of each
        node that samples: `response_length`, the mean of tokens sampled a response; `truncated`, the share of
        responses that `max_new_tokens` cut off; `entropy`, the mean negative log-prob of the tokens sampled, in nats,
        an estimate by sampling of the policy's entropy at that temperature (with `top_k` or `top_p` of a cross
        entropy, with temperature 0 of neither). None stands for the mean or metric of nothing. A key that a line has
        the later ones have too.
        """
        sums = [sum(each) for each in zip(*(p.sums for p in parts), strict=True)]
        most = [max(each) for each in zip(*(p.most for p in parts), strict=True)]
        means = self._means_of(sums)
        squares = [sum(each) for each in zip(*(p.squares_about(means) for p in parts), strict=True)]
        # The first rank that has an engine's numbers tells them, in the order in which one rank would have them.
        heard = {node: numbers for p in reversed(parts) for node, numbers in p.said.items()}
        said = {node: heard[node] for node in self._speakers if node in heard}
        return self._line(step, sums, most, squares, said)

    def _pairs(self, sums: list[float]) -> list[tuple[float, float]]:
        """Total and count of each field with a mean, then of each metric."""
        begin = len(COUNTS) + _FACTS * len(self._samplers)
        return list(zip(sums[begin::2], sums[begin + 1 :: 2], strict=True))

    def _means_of(self, sums: list[float]) -> list[float]:
        """Of each metric over all ranks."""
        return [total / count if count else 0.0 for total, count in self._pairs(sums)[len(self._means) :]]

    def _line(
        self,
        step: int,
        sums: list[float],
        most: list[float],
        squares: list[float],
        said: Mapping[str, Mapping[str, float]],
    ) -> dict[str, float | None]:
        counts = dict(zip(COUNTS, map(int, sums), strict=False))
        found = self._pairs(sums)
        line: dict[str, float | None] = {"step": step, "seconds": most[0]}
        for name, (total, rows) in zip(self._means, found, strict=False):
            line[logged_as(name)] = total / rows if rows else None
        line |= {**counts, "tokens_per_s": counts["tokens"] / most[0]}
        line |= self._sampled(sums[len(COUNTS) :])
        line |= self._metrics(found[len(self._means) :], most[1 + len(self._ops) :], squares)
        line |= self._reported(said)
        line |= {f"seconds/{n}": s for n, s in zip(self._ops, most[1:], strict=False)}
        memory = zip(self._measured, most[len(most) - len(self._measured) :], strict=True)
        return line | {memory_key(name): int(size) for name, size in memory if size}

    def _sampled(self, sums: list[float]) -> dict[str, float | None]:
        """`ROLLOUT` of each node that samples; `sums` has the facts of `add_rollout` over all ranks, node by node."""
        made: dict[str, float | None] = {}
        for i, node in enumerate(self._samplers):
            rows, tokens, cut, surprise = sums[i * _FACTS : (i + 1) * _FACTS]
            values = (tokens / rows, cut / rows, surprise / tokens) if tokens else (None, None, None)
            made |= {f"{node}/{name}": value for name, value in zip(ROLLOUT, values, strict=True)}
        return made

    def _reported(self, said: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
        """What engines said, None for what they said in an earlier step only."""
        told = {f"{node}/{name}": value for node, numbers in said.items() for name, value in numbers.items()}
        self._seen |= dict.fromkeys(told)
        values = ((name, told.get(name, math.nan)) for name in self._seen)
        return {name: value if math.isfinite(value) else None for name, value in values}

    def _metrics(
        self, totals: list[tuple[float, float]], ends: list[float], squares: list[float]
    ) -> dict[str, float | None]:
        """Each metric by its key, from sum and count, minus the minimum and the maximum, squares about the mean."""
        made: dict[str, float | None] = {}
        for i, (name, reduction) in enumerate(self._reductions.items()):
            total, count = totals[i]
            values = {
                Reduction.SUM: total,
                Reduction.MEAN: total / count if count else 0.0,
                Reduction.STD: math.sqrt(squares[i] / count) if count else 0.0,
                Reduction.MIN: -ends[2 * i],
                Reduction.MAX: ends[2 * i + 1],
            }
            value = values[reduction]
            made[logged_as(name, "metric")] = value if count and math.isfinite(value) else None
        return made


def node_of(op: AnyOp) -> str:
    """The name under which what an op reports is logged."""
    return op.node or op.id


def is_first(group: Group, rank: int, world_size: int) -> bool:
    """Whether `rank` speaks for the ranks of the group that hold the same rows."""
    at = group.coordinates(rank, world_size)
    return at is not None and at["tp"] == at["cp"] == at["pp"] == 0


def _speaker(op: AnyOp) -> str:
    """The name under which the global numbers of an op are logged."""
    return op.collection if isinstance(op, TakeOp) else node_of(op)


def _block(op: LoadOp) -> str:
    """The block of a prompt set: of `prompts` and `answers` none, of `test.prompts` `test`."""
    return op.columns[0].rpartition(".")[0]
