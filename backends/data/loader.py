"""Each rank reads its own shard: prompt i of a step's global batch belongs to rank i % size."""

from __future__ import annotations

import itertools
import string
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from rldsl.backends.background import Background, Task
from rldsl.backends.data.batch import TORCH_DTYPE, Column, Data
from rldsl.backends.data.sources import Row, Rows, open_rows
from rldsl.compiler.ops import LoadOp, SourceSpec
from rldsl.diagnostics import Diagnostic, Severity, did_you_mean, fail
from rldsl.types import DType, FieldType

GYM_COLUMNS = {"prompts": "question", "answers": "answer"}
TEMPLATE_FIELD = "prompts"
SEEDS = 2**63  # a generator takes seeds below this; ours may be any integer


class Loader:
    """One stream of prompts on the rank `rank` of `size`, for the ops that take turns at it.

    Every size reads the same global batches. Raises RL0603 to RL0606 (file, column, row, arguments) when made or read;
    `warnings` are for the user.
    """

    def __init__(
        self,
        ops: Sequence[LoadOp],
        types: Mapping[str, FieldType],
        *,
        rank: int,
        size: int,
        seed: int,
        source_dir: Path,
    ) -> None:
        first = ops[0]
        # An op whose template would make what nothing reads comes without it; the others still want theirs.
        source = next((op.source for op in ops if "template" in op.source.args), first.source)
        rows = open_rows(source, source_dir=source_dir, seed=seed)
        self._dtypes = {n: types[column].dtype for op in ops for n, column in wanted(op).items()}
        self._rank, self._size = rank, size
        # Procedural rows come in random order already.
        shuffle = bool(source.args.get("shuffle", source.kind != "reasoning_gym"))
        self.warnings: tuple[Diagnostic, ...] = ()
        if first.first:
            _check_rows(rows, first.batch)
        elif len(rows) < first.batch:
            self.warnings = (_repeated(rows, first.batch),)
        shard = _Shard(len(rows), first.batch, rank=rank, size=size, seed=seed, shuffle=shuffle and not first.first)
        # torchdata's own call of something torch is about to drop: not for our users to read.
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
        loader: Any = StatefulDataLoader(
            _Fields(rows, source, self._dtypes),
            batch_sampler=itertools.repeat(next(iter(shard))) if first.first else shard,
            collate_fn=list,
        )
        self._batches: Iterator[list[dict[str, Any]]] = iter(loader)
        self._ahead: Task[list[dict[str, Any]]] | None = None
        self.hidden = 0.0

    def next(self, op: LoadOp, step: int) -> dict[str, Column]:
        """The columns of this rank's next prompts, by the fields of `op`, which runs in `step`.

        Ids are (step * rounds + round) * batch + index. `hidden` is then how many seconds of reading them took place
        beside something else.
        """
        began, ahead = time.perf_counter(), self._ahead
        rows = next(self._batches) if ahead is None else ahead.result()
        self.hidden = 0.0 if ahead is None else max(0.0, ahead.seconds - (time.perf_counter() - began))
        self._ahead = None
        number = step * op.rounds + op.round
        ids = number * op.batch + torch.arange(self._rank, op.batch, self._size)
        return {column: Column(ids, self._collect(n, rows)) for n, column in wanted(op).items()}

    def read_ahead(self, background: Background) -> None:
        """Begin to read the rows that the next op to ask gets; what is wrong with them is raised when it asks."""
        self._ahead = background.start(lambda: next(self._batches))

    def _collect(self, name: str, rows: list[dict[str, Any]]) -> Data:
        values = [row[name] for row in rows]
        dtype = self._dtypes[name]
        return values if dtype is DType.TEXT else torch.tensor(values, dtype=TORCH_DTYPE[dtype])


def wanted(op: LoadOp) -> dict[str, str]:
    """The plan's field for each name that the stream itself uses."""
    return dict(zip(op.names or op.columns, op.columns, strict=True))


class _Shard:
    """This rank's row indices, a list a step, for ever: position p is row p mod rows of epoch p // rows."""

    def __init__(self, rows: int, batch: int, *, rank: int, size: int, seed: int, shuffle: bool) -> None:
        self._rows, self._batch, self._rank, self._size = rows, batch, rank, size
        self._seed, self._shuffle = seed, shuffle
        # Two epochs: a batch may end one and begin the next.
        self._order = lru_cache(2)(self._permutation)

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        while True:
            yield [self._row(p) for p in range(start + self._rank, start + self._batch, self._size)]
            start += self._batch

    def _row(self, position: int) -> int:
        epoch, index = divmod(position, self._rows)
        return int(self._order(epoch)[index]) if self._shuffle else index

    def _permutation(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % SEEDS)
        return torch.randperm(self._rows, generator=generator)


class _Fields:
    """Rows turned into a stream's fields: renamed, filled into the template, checked against the dtype.

    The template makes the field `prompts`, or the first text field if there is none of that name.
    """

    def __init__(self, rows: Rows, source: SourceSpec, dtypes: Mapping[str, DType]) -> None:
        self._rows = rows
        template = source.args.get("template")
        self._template = None if template is None else str(template)
        self._columns = {name: column_of(source, name) for name in dtypes}
        self._dtypes = dtypes
        self._filled, self._needs = "", tuple[str, ...]()
        if self._template is not None:
            self._filled = _template_field(self._dtypes, self._template)
            self._columns.pop(self._filled)
            self._needs = _template_columns(self._template)
        for wanted in (*self._columns.values(), *self._needs):
            _check_column(rows, wanted)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        for wanted in (*self._columns.values(), *self._needs):
            if wanted not in row:
                self._rows.bad(index, f"has no column `{wanted}`", expected=f"`{wanted}`", found=", ".join(row))
        made = {name: self._value(index, row, name, column) for name, column in self._columns.items()}
        if self._template is not None:
            made[self._filled] = self._fill(index, row)
        return made

    def _value(self, index: int, row: Row, name: str, column: str) -> Any:
        value, dtype = row[column], self._dtypes[name]
        if dtype is DType.TEXT:
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                return str(value)
        elif isinstance(value, (int, float, bool)):
            return value
        found = f"{type(value).__name__} {str(value)[:60]!r}"
        return self._rows.bad(index, f"has a bad `{column}`", expected=f"{dtype} for the field `{name}`", found=found)

    def _fill(self, index: int, row: Row) -> str:
        assert self._template is not None
        try:
            return self._template.format_map(row)
        except (ValueError, LookupError, AttributeError) as error:
            self._rows.bad(index, "does not fit the template", expected=self._template, found=str(error))


def column_of(source: SourceSpec, field: str) -> str:
    """The source's column that makes `field`: `<field>_column`, else the gym's own name, else the field's."""
    usual = GYM_COLUMNS.get(field, field) if source.kind == "reasoning_gym" else field
    return str(source.args.get(f"{field}_column", usual))


def _template_field(dtypes: Mapping[str, DType], template: str) -> str:
    """The field that `template` fills; RL0606 when there is no text among `dtypes`."""
    texts = [name for name, dtype in dtypes.items() if dtype is DType.TEXT]
    if not texts:
        fail(
            "RL0606",
            "`template` makes a text, and no field of this input is one",
            expected="a field of type text[prompt]",
            found=", ".join(f"{name} : {dtype}" for name, dtype in dtypes.items()),
            fix=f'drop `template = "{template}"`, or declare a text field',
        )
    return TEMPLATE_FIELD if TEMPLATE_FIELD in texts else texts[0]


def _template_columns(template: str) -> tuple[str, ...]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        fail(
            "RL0606",
            f"`template` is not a format string: {error}",
            expected='such as "What is {question}?"',
            found=template,
        )
    if "" in names:
        fail(
            "RL0606",
            "`template` has a place without a name",
            expected='such as "What is {question}?"',
            found=template,
        )
    return tuple(name.split(".")[0].split("[")[0] for name in names)


def _check_rows(rows: Rows, batch: int) -> None:
    """RL0606 for a validation that wants more rows than there are: some would count twice."""
    if len(rows) < batch:
        fail(
            "RL0606",
            f"{rows.name} has fewer rows than the batch of a validation",
            expected=f"at least {batch} rows, each read once",
            found=f"{len(rows)} rows",
            fix=f"`batch = {len(rows)}`, or fewer",
        )


def _repeated(rows: Rows, batch: int) -> Diagnostic:
    """RL0611: each step reads some rows more than once."""
    message = f"{rows.name} has {len(rows)} rows, fewer than the batch of {batch} prompts"
    fix = f"a batch of at most {len(rows)} prompts, or more rows"
    return Diagnostic(
        code="RL0611", message=f"{message}: each step reads rows more than once", severity=Severity.WARNING, fix=fix
    )


def _check_column(rows: Rows, wanted: str) -> None:
    if wanted in rows.columns:
        return
    fail(
        "RL0604",
        f"{rows.name} has no column `{wanted}`",
        expected=f"a column `{wanted}`",
        found=f"columns {', '.join(rows.columns)}",
        fix=did_you_mean(wanted, rows.columns) or "name the column by `<field>_column`",
    )
