"""Numbers of the log over all rows of all ranks, against plain Python."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.metrics import StepMetrics
from rldsl.compiler.ops import Guard, MetricOp, Reduction
from rldsl.compiler.plan import Program
from tests.ranks import on_ranks
from tests.runtime.plans import only_compute, user_function

WORLD = 3
# What each metric sees on each rank: none, few and many rows; a spread that is tiny beside the mean; yes and no.
ROWS = {
    "even": (0, 1, 6),
    "far": (40, 50, 60),
    "flag": (3, 0, 5),
    "count": (2, 2, 2),
    "nothing": (0, 0, 0),
}


def numbers(name: str) -> list[Tensor]:
    """One tensor a rank."""
    draws = random.Random(name)
    lists = [[draws.random() for _ in range(rows)] for rows in ROWS[name]]
    if name == "far":
        return [torch.tensor([1e6 + x for x in each], dtype=torch.float64) for each in lists]
    if name == "flag":
        return [torch.tensor([x > 0.5 for x in each], dtype=torch.bool) for each in lists]
    if name == "count":
        return [torch.tensor([int(100 * x) - 50 for x in each], dtype=torch.int64) for each in lists]
    return [torch.tensor(each) for each in lists]


def wanted(name: str, reduction: Reduction) -> float | None:
    values = [float(x) for each in numbers(name) for x in each.tolist()]
    of = {
        Reduction.MEAN: statistics.fmean,
        Reduction.STD: statistics.pstdev,
        Reduction.MIN: min,
        Reduction.MAX: max,
        Reduction.SUM: math.fsum,
    }
    return float(of[reduction](values)) if values else None


def ops() -> list[MetricOp]:
    return [MetricOp(id=f"{name}.{r}", name=f"{name}.{r}", reduction=r, field=name) for name in ROWS for r in Reduction]


def made(comm: Comm, folder: Path) -> StepMetrics:
    plan = only_compute(folder, user_function(folder, "def user(prompts):\n    return [1.0] * len(prompts)\n"))
    programs = (Program(ops=(*plan.ops(), *ops())),)
    return StepMetrics(msgspec.structs.replace(plan, programs=programs), comm)


def closed(comm: Comm, shares: int, folder: Path) -> dict[str, float | None]:
    """One step's line; each of the `shares` parts of a metric that fall to this rank is added on its own."""
    metrics = made(comm, folder)
    for _ in range(2):  # a step begins with nothing
        metrics.begin()
        for op in ops():
            for part in numbers(op.field)[comm.rank :: shares]:
                metrics.add_metric(op, part)
        line = metrics.close(0)
    return line


def assert_wanted(line: dict[str, float | None]) -> None:
    for name in ROWS:
        for reduction in Reduction:
            want, got = wanted(name, reduction), line[f"{name}.{reduction}"]
            assert got == (None if want is None else pytest.approx(want, rel=1e-9, abs=1e-12)), (name, reduction)


def work(comm: Comm, folder: Path) -> dict[str, float | None]:
    own = folder / f"{comm.rank}"
    own.mkdir()
    return closed(comm, WORLD, own)


def test_over_ranks(tmp_path: Path) -> None:
    lines = on_ranks(work, tmp_path, WORLD)
    assert len(lines) == WORLD
    for line in lines:
        assert_wanted(line)


def test_from_the_parts_of_ranks_that_do_not_meet(tmp_path: Path) -> None:
    parts = []
    for rank in range(WORLD):
        metrics = made(Comm.alone(), tmp_path)
        for op in ops():
            metrics.add_metric(op, numbers(op.field)[rank])
        # What engines say is the same on all ranks that have it; rank 0 has none.
        if rank:
            metrics.add_global("judge", {"loss": 0.5, "kl": float("nan")})
        parts.append(metrics.part())
    line = metrics.line(7, parts)
    assert_wanted(line)
    assert line["step"] == 7 and line["judge/loss"] == 0.5 and line["judge/kl"] is None
    assert list(line) == list(metrics.close(8)), "the keys of ranks that end a step together, in their order"


def test_alone_from_several_ops(tmp_path: Path) -> None:
    assert_wanted(closed(Comm.alone(), 1, tmp_path))


def test_the_logs_own_keys_stay(tmp_path: Path) -> None:
    plan = only_compute(tmp_path, user_function(tmp_path, "def user(prompts):\n    return [1.0] * len(prompts)\n"))
    made = [
        MetricOp(id="m", name="step", reduction=Reduction.SUM, field="score"),
        MetricOp(id="n", name="score", reduction=Reduction.SUM, field="score", guard=Guard(every=3)),
    ]
    metrics = StepMetrics(msgspec.structs.replace(plan, programs=(Program(ops=(*plan.ops(), *made)),)), Comm.alone())
    metrics.add_metric(made[0], torch.tensor([2.0, 3.0]))
    line = metrics.close(7)
    assert (line["step"], line["metric/step"]) == (7, 5.0)
    assert line["score"] is None, "what the user calls a metric is that metric, though a field has the same name"


def test_keys_that_were_seen_stay(tmp_path: Path) -> None:
    plan = only_compute(tmp_path, user_function(tmp_path, "def user(prompts):\n    return [1.0] * len(prompts)\n"))
    metrics = StepMetrics(plan, Comm.alone())
    assert "update/kl" not in metrics.close(0)
    seen = []
    for numbers in ({"loss": 1.0, "kl": 2.0}, {"loss": 3.0}):
        metrics.begin()
        metrics.add_global("update", numbers)
        seen.append(metrics.close(1))
    assert list(seen[0]) == list(seen[1])
    assert (seen[1]["update/loss"], seen[1]["update/kl"]) == (3.0, None)
