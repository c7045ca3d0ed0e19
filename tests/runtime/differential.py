"""A program run in every way there is, and how far each is from the reference interpreter on the graph as written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.engines.engine import TRANSFORMERS, Engine
from rldsl.backends.executor import Executor
from rldsl.backends.keys import OWN_KEYS, ROLLOUT, logged_as, mean_fields
from rldsl.backends.reference import Reference, Step
from rldsl.backends.runtime import holders_of
from rldsl.compiler.ir import Module
from rldsl.compiler.ops import TrainOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.unroll_loops import UnrollLoops
from rldsl.compiler.pipeline import OPTIONAL_PASSES, Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostics

STEPS = 2
LIMIT = 1e-5
LEAST = 0.1  # numbers below are compared as if they were as large: losses are means of terms that cancel
FAINT = 1e-4  # gradients below are noise: Adam would make whole steps of it
TIMES = ("seconds", "tokens_per_s")
# Rows of fields by name, of each step: id to value.
Fields = dict[str, dict[int, Any]]
Weights = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made: the log, every field's rows, what it put out, and the weights at the end."""

    lines: list[dict[str, Any]]
    fields: list[Fields]
    outputs: dict[str, list[dict[str, Any]]]
    weights: Weights


@dataclass(kw_only=True)
class Difference:
    """The largest relative difference found, where it is, and what is not comparable at all."""

    worst: float = 0.0
    where: str = ""
    wrong: list[str] = field(default_factory=list)

    def number(self, where: str, got: float | None, want: float | None, least: float = LEAST) -> None:
        if got is None or want is None or not math.isfinite(got) or not math.isfinite(want):
            if got != want:
                self.wrong.append(f"{where}: {got} for {want}")
            return
        self.gap(where, abs(got - want) / max(abs(got), abs(want), least))

    def gap(self, where: str, size: float) -> None:
        if size > self.worst:
            self.worst, self.where = size, where

    @property
    def bad(self) -> bool:
        return bool(self.wrong) or self.worst > LIMIT

    def __str__(self) -> str:
        return "; ".join([*self.wrong[:3], f"{self.worst:.1e} at {self.where}"])


class Remembering(Buffer):
    """Remembers what was freed or moved."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Column] = {}

    def put(self, name: str, column: Column) -> None:
        # Rows that were here before a move and are here after it are the same rows.
        self.seen[name] = column
        super().put(name, column)


def execute(plan: Plan, comm: Comm, folder: Path, run_dir: Path, engine: Engine = TRANSFORMERS) -> Outcome:
    """This rank's part of a run of the plan."""
    made = Executor(plan, comm, steps=STEPS, source_dir=folder, run_dir=run_dir, engine=engine)
    buffer = made.runtime.buffer = Remembering()
    lines: list[dict[str, Any]] = []
    fields = []
    with made.delivering(lambda line: lines.append(dict(line))):
        for step in range(STEPS):
            made.run_step(step)
            fields.append({name: by_id(column) for name, column in buffer.seen.items()})
            buffer.seen = {}
        comm.barrier()  # ranks that are threads wait in collectives alone
    outputs = {}
    for path in (run_dir / "outputs").glob(f"*-{comm.rank}.jsonl"):
        outputs[path.name.rpartition("-")[0]] = [json.loads(line) for line in path.read_text().splitlines()]
    weights = {m: clone(w.weights()) for m, w in sorted(made.runtime.models.items()) if holds(plan, m, comm)}
    return Outcome(lines=lines, fields=fields, outputs=outputs, weights=weights)


def holds(plan: Plan, model: str, comm: Comm) -> bool:
    """Whether this rank has a part of a model's weights, rather than what it last got to sample from."""
    group = plan.group(holders_of(plan)[plan.model(model).holder])
    return group.index(comm.rank, comm.world_size) is not None


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: w.clone() for name, w in weights.items()}


def by_id(column: Column) -> dict[int, Any]:
    data = column.data
    values = list(data) if isinstance(data, list) else data.rows() if isinstance(data, Ragged) else data.tolist()
    return dict(zip(column.ids.tolist(), values, strict=True))


def united(parts: Sequence[Outcome]) -> Outcome:
    """What all ranks made together."""
    fields: list[Fields] = [{} for _ in range(STEPS)]
    outputs: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        for whole, mine in zip(fields, part.fields, strict=True):
            for name, rows in mine.items():
                whole.setdefault(name, {}).update(rows)
        for name, lines in part.outputs.items():
            outputs.setdefault(name, []).extend(lines)
    weights = {model: each for part in reversed(parts) for model, each in part.weights.items()}
    return Outcome(lines=parts[0].lines, fields=fields, outputs=outputs, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a program is compiled and run."""

    ranks: int = 1
    disable: frozenset[str] = frozenset()
    layouts: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.ranks} ranks", *self.layouts, *(f"without {d}" for d in sorted(self.disable))]
        return ", ".join(parts)

    def options(self) -> Options:
        return Options(disable=self.disable, layouts=self.layouts, world_size=self.ranks if self.layouts else None)


ON_ONE = (
    Way(),
    *(Way(disable=frozenset({name})) for name in sorted(OPTIONAL_PASSES)),
    Way(disable=OPTIONAL_PASSES),
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the reference interpreter makes of a program."""

    module: Module  # the graph as written
    steps: list[Step]
    weights: Weights
    certain: int  # steps before gradients that are noise

    @classmethod
    def of(cls, source: Path, engine: Engine = TRANSFORMERS) -> Wanted:
        module = as_written(source)
        reference = Reference(module, source_dir=source.parent, steps=STEPS, engine=engine)
        steps = [reference.step() for _ in range(STEPS)]
        noisy = [any(n.endswith("/grad_norm") and 0 < v < FAINT for n, v in s.metrics.items()) for s in steps]
        certain = noisy.index(True) if True in noisy else STEPS
        weights = {m: clone(w.weights()) for m, w in reference._models.items()}
        return cls(module=module, steps=steps, weights=weights, certain=certain)


def as_written(source: Path) -> Module:
    """The module as the checks leave it, before any rewrite but that of loops."""
    seen: dict[str, Module] = {}
    compile_file(source, Options(observe=lambda name, module, _: seen.update({name: module})))
    return UnrollLoops().apply(seen["check_deploy"], Context(found=Diagnostics(), source_dir=source.parent))


def difference(got: Outcome, want: Wanted, plan: Plan) -> Difference:
    """Between a run and the reference: numbers, fields, rows put out, weights."""
    found = Difference()
    for i, step in enumerate(want.steps[: want.certain]):
        at = f"step {i} "
        for name, value in numbers(step, plan).items():
            key = logged_as(name, "metric") if "/" not in name else name
            found.number(at + name, got.lines[i].get(key), value)
        for name in missing(got.lines[i], step, plan):
            found.wrong.append(f"{at}{name} is logged, and the graph as written has no such number")
        for name, rows in got.fields[i].items():
            compare_rows(f"{at}field {name}", rows, by_id(step.fields[name]), found)
    for name in {n for s in want.steps for n in s.outputs} | got.outputs.keys():
        lines = [row for s in want.steps[: want.certain] for row in s.outputs.get(name, ())]
        mine = [row for row in got.outputs.get(name, ()) if row["step"] < want.certain]
        compare_lines(f"output {name}", mine, lines, found)
    if want.certain == STEPS:
        compare_weights(got.weights, want.weights, found)
    return found


def numbers(step: Step, plan: Plan) -> dict[str, float | None]:
    """What the log must say. The interpreter skips no rows, and a loss's own metrics are of rows not skipped."""
    skipping = tuple(f"{op.id}/" for op in plan.ops() if isinstance(op, TrainOp) and op.skip_where_zero)
    always = ("/loss", "/grad_norm", "/tokens")
    ids = {op.id for op in plan.ops()}
    found: dict[str, float | None] = {}
    for name, value in step.metrics.items():
        dead = name.endswith(("/kept", "/rounds")) and name.split("/")[0] not in ids
        if dead or name.endswith(("/seconds", "/lr")):
            continue
        if name.endswith(always) or not name.startswith(skipping):
            found[name] = value
    for name in mean_fields(plan):
        if name in step.fields and name not in OWN_KEYS and name not in found:
            data = step.fields[name].data
            assert isinstance(data, Tensor)
            found[name] = float(data.double().mean()) if len(data) else None
    return found


def missing(line: Mapping[str, Any], step: Step, plan: Plan) -> Iterator[str]:
    """Numbers of the log that the reference does not have."""
    means = set(mean_fields(plan))
    for name, value in line.items():
        own = name in OWN_KEYS or name.startswith("seconds/") or name.rpartition("/")[2] in ROLLOUT
        if not own and value is not None and name not in step.metrics and not (name in means and name in step.fields):
            yield name


def compare_rows(where: str, got: Mapping[int, Any], want: Mapping[int, Any], found: Difference) -> None:
    if got.keys() != want.keys():
        found.wrong.append(f"{where}: rows {sorted(got)[:8]} ({len(got)}) for {sorted(want)[:8]} ({len(want)})")
        return
    for row, value in got.items():
        compare_values(where, value, want[row], found)


def compare_values(where: str, got: Any, want: Any, found: Difference) -> None:
    if isinstance(got, Tensor):
        got, want = got.tolist(), want.tolist()
    if isinstance(got, list) and isinstance(want, list):
        if len(got) != len(want):
            found.wrong.append(f"{where}: {len(got)} tokens for {len(want)}")
        for a, b in zip(got, want, strict=False):
            compare_values(where, a, b, found)
    elif isinstance(got, float) and isinstance(want, float):
        found.number(where, got, want, least=1.0)
    elif got != want:
        found.wrong.append(f"{where}: {got!r} for {want!r}")


def compare_lines(where: str, got: list[dict[str, Any]], want: list[dict[str, Any]], found: Difference) -> None:
    """Rows in any order: each rank has a file of its own."""
    mine, theirs = ({(r["step"], r["id"]): r for r in rows} for rows in (got, want))
    if len(mine) != len(got) or mine.keys() != theirs.keys():
        found.wrong.append(f"{where}: {len(got)} rows for {len(want)}")
        return
    for key, row in mine.items():
        if list(row) != list(theirs[key]):
            found.wrong.append(f"{where}: columns {list(row)} for {list(theirs[key])}")
            return
        for name, value in row.items():
            compare_values(f"{where}.{name}", value, theirs[key][name], found)


def compare_weights(got: Weights, want: Weights, found: Difference) -> None:
    for model, weights in got.items():
        if weights.keys() != want[model].keys():
            found.wrong.append(f"weights of {model}: {sorted(weights.keys() ^ want[model].keys())}")
            continue
        for name, value in weights.items():
            other = want[model][name]
            scale = max(float(other.norm()), 1e-3 * math.sqrt(other.numel()))
            found.gap(f"weights {model}.{name}", float((value - other).norm()) / scale)


def compare_runs(got: Outcome, base: Outcome, found: Difference) -> None:
    """What only runs have, and must have alike on any number of ranks: counts of rows and tokens."""
    for i, (mine, other) in enumerate(zip(got.lines, base.lines, strict=True)):
        for name in (n for n in OWN_KEYS if n in other and n not in ("step", *TIMES)):
            found.number(f"step {i} {name}", mine[name], other[name])
        for name in (n for n in other if n.rpartition("/")[2] in ROLLOUT):
            found.number(f"step {i} {name}", mine.get(name), other[name])
        names = {n for n in mine.keys() ^ other.keys() if not n.startswith("seconds/")}
        if names:
            found.wrong.append(f"step {i}: the log has other names: {sorted(names)}")


Run = Callable[[Plan, Path, Path], Outcome]


def alone(plan: Plan, folder: Path, run_dir: Path, engine: Engine = TRANSFORMERS) -> Outcome:
    torch.set_num_threads(1)
    return execute(plan, Comm.alone(), folder, run_dir, engine)
