"""The numbers of a step: gathered op by op, brought together over all ranks at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Drawn
from rldsl.backends.keys import COUNTS, ROLLOUT, logged_as, mean_fields
from rldsl.compiler.plan import AnyOp, ExtendOp, FreeOp, GenerateOp, LoadOp, MetricOp, Plan, Reduction
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

    def squares_about(self, center: float) -> float:
        """The sum of squared distances from `center`."""
        return self.squares + self.count * (self.total / self.count - center) ** 2 if self.count else 0.0


class StepMetrics:
    """One step's numbers on this rank: `seconds/<op>`, `<node>/<what the engine says>`, fields, metrics.

    Every rank has the same slots in the same order, from the plan, so that one sum and one maximum over
    all ranks bring them together. What an engine reports is global already and kept as rank 0 has it.
    """

    def __init__(self, plan: Plan, comm: Comm) -> None:
        self._comm = comm
        self._means = mean_fields(plan)
        self._ops = tuple(op.id for op in plan.ops() if not isinstance(op, FreeOp))
        self._reductions = {op.name: op.reduction for op in plan.ops() if isinstance(op, MetricOp)}
        self._samplers = tuple(dict.fromkeys(node_of(op) for op in plan.ops() if isinstance(op, _SAMPLING)))
        # What a loss measures is known once it has been called; from then on every line has the key.
        self._seen: dict[str, None] = {}
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self._totals = dict.fromkeys(self._means, (0.0, 0))
        self._tallies = {name: _Tally() for name in self._reductions}
        self._rollouts = {node: [0.0] * _FACTS for node in self._samplers}
        self._counts = dict.fromkeys(COUNTS, 0)
        self._prompt_sets: set[str] = set()
        self._seconds = dict.fromkeys(self._ops, 0.0)
        self._global: dict[str, float] = {}
        self._began = time.perf_counter()

    def add_field(self, name: str, values: Tensor) -> None:
        """[rows] of a computed field, if its mean is logged."""
        if name in self._totals:
            self._totals[name] = (float(values.double().sum()), len(values))

    def add_metric(self, op: MetricOp, values: Tensor) -> None:
        """This rank's numbers for `op`; ops with one name have one metric over the numbers of all."""
        self._tallies[op.name].add(values)

    def add_rollout(self, op: GenerateOp | ExtendOp, drawn: Drawn) -> None:
        """What `op` has sampled on this rank."""
        facts = (drawn.rows, drawn.tokens, drawn.cut, drawn.surprise)
        self._rollouts[node_of(op)] = [a + b for a, b in zip(self._rollouts[node_of(op)], facts, strict=True)]

    def count(self, name: str, number: int) -> None:
        """Add to one of `COUNTS`."""
        self._counts[name] += number

    def count_prompts(self, op: LoadOp, rows: int) -> None:
        """What `op` has loaded; columns of one prompt set, `prompts` and `answers`, or `test.prompts`, count once."""
        block = op.columns[0].rpartition(".")[0]
        if block not in self._prompt_sets:
            self._prompt_sets.add(block)
            self.count("prompts", rows)

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

    def add_seconds(self, op: str, seconds: float) -> None:
        """What the op `op` has taken in the background, beside others."""
        self._seconds[op] += seconds

    @staticmethod
    def _reduced(numbers: list[float], reduce: Reduce) -> list[float]:
        reduced: list[float] = reduce(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return reduced

    def close(self, step: int) -> dict[str, float | None]:
        """The step's line, the same on every rank for what is reduced. Collective over the world.

        Means are over all rows of all ranks, seconds the slowest rank's; `tokens` are prompt and response. Of each
        node that samples: `response_length`, the mean of tokens sampled a response; `truncated`, the share of
        responses that `max_new_tokens` cut off; `entropy`, the mean negative log-prob of the tokens sampled, in nats,
        an estimate by sampling of the policy's entropy at that temperature (with `top_k` or `top_p` of a cross
        entropy, with temperature 0 of neither). None stands for the mean or metric of nothing. A key that a line has
        the later ones have too.
        """
        elapsed = time.perf_counter() - self._began
        tallies = list(self._tallies.values())
        pairs = [*self._totals.values(), *((t.total, t.count) for t in tallies)]
        ends = [end for t in tallies for end in (-t.least, t.most)]
        rollouts = [n for facts in self._rollouts.values() for n in facts]
        mine = [*self._counts.values(), *rollouts, *(n for pair in pairs for n in pair)]
        sums = self._reduced(mine, self._comm.all_reduce)
        most = self._reduced([elapsed, *self._seconds.values(), *ends], self._comm.all_reduce_max)
        counts = dict(zip(COUNTS, map(int, sums), strict=False))
        begin = len(COUNTS) + len(rollouts)
        found = list(zip(sums[begin::2], sums[begin + 1 :: 2], strict=True))
        line: dict[str, float | None] = {"step": step, "seconds": most[0]}
        for name, (total, rows) in zip(self._means, found, strict=False):
            line[logged_as(name)] = total / rows if rows else None
        line |= {**counts, "tokens_per_s": counts["tokens"] / most[0]}
        line |= self._sampled(sums[len(COUNTS) : begin])
        line |= self._metrics(found[len(self._means) :], most[1 + len(self._ops) :])
        line |= self._reported()
        return line | {f"seconds/{n}": s for n, s in zip(self._ops, most[1:], strict=False)}

    def _sampled(self, sums: list[float]) -> dict[str, float | None]:
        """`ROLLOUT` of each node that samples; `sums` has the facts of `add_rollout` over all ranks, node by node."""
        made: dict[str, float | None] = {}
        for i, node in enumerate(self._samplers):
            rows, tokens, cut, surprise = sums[i * _FACTS : (i + 1) * _FACTS]
            values = (tokens / rows, cut / rows, surprise / tokens) if tokens else (None, None, None)
            made |= {f"{node}/{name}": value for name, value in zip(ROLLOUT, values, strict=True)}
        return made

    def _reported(self) -> dict[str, float | None]:
        """What engines said, None for what they said in an earlier step only."""
        self._seen |= dict.fromkeys(self._global)
        values = ((name, self._global.get(name, math.nan)) for name in self._seen)
        return {name: value if math.isfinite(value) else None for name, value in values}

    def _metrics(self, totals: list[tuple[float, float]], ends: list[float]) -> dict[str, float | None]:
        """Each metric by its key. `totals`: sum and count over all ranks; `ends`: minus the minimum, the maximum."""
        means = [total / count if count else 0.0 for total, count in totals]
        squares = self._squares(means)
        made: dict[str, float | None] = {}
        for i, (name, reduction) in enumerate(self._reductions.items()):
            total, count = totals[i]
            values = {
                Reduction.SUM: total,
                Reduction.MEAN: means[i],
                Reduction.STD: math.sqrt(squares[i] / count) if count else 0.0,
                Reduction.MIN: -ends[2 * i],
                Reduction.MAX: ends[2 * i + 1],
            }
            value = values[reduction]
            made[logged_as(name, "metric")] = value if count and math.isfinite(value) else None
        return made

    def _squares(self, means: list[float]) -> list[float]:
        """Squared distances from the global means, which had to be known first: one more sum, if the plan has a std."""
        if Reduction.STD not in self._reductions.values():
            return [0.0] * len(means)
        mine = [t.squares_about(mean) for t, mean in zip(self._tallies.values(), means, strict=True)]
        return self._reduced(mine, self._comm.all_reduce)


def node_of(op: AnyOp) -> str:
    """The name under which what an op reports is logged."""
    return op.node or op.id
