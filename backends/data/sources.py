"""Where rows come from: reasoning-gym tasks, a JSONL file, a Parquet file. Rows are read when asked for."""

from __future__ import annotations

import inspect
import json
from array import array
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol, get_origin, get_type_hints

from rldsl.compiler.ops import Scalar, SourceSpec
from rldsl.diagnostics import Span, did_you_mean, fail

Row = Mapping[str, Any]
OWN_ARGS = ("path", "dataset", "template", "shuffle")
GROUPS_KEPT = 8  # Parquet row groups in memory: shuffled reads touch few of them twice


class Rows(Protocol):
    """Rows by index; `columns` are the names present, `name` is for messages."""

    name: str
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def bad(self, index: int, message: str, *, expected: str, found: str) -> NoReturn:
        """Raise RL0605, pointing at the row."""


class JsonlRows:
    """One JSON object a line; blank lines are skipped. Only the places of the lines are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._offsets, self._lines = _index_lines(path)
        self.columns = tuple(self[0]) if len(self) else ()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Row:
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            row = json.loads(line)
        except ValueError as error:  # bad JSON and bad UTF-8 alike
            self.bad(index, "is not valid JSON", expected="one JSON object a line", found=str(error))
        if not isinstance(row, dict):
            self.bad(
                index,
                "is not a JSON object",
                expected='an object such as {"prompts": "..."}',
                found=type(row).__name__,
            )
        return row

    def bad(self, index: int, message: str, *, expected: str, found: str) -> NoReturn:
        """Raise RL0605 at the file's line."""
        line = self._lines[index]
        span = Span.whole_line(self.name, line)
        fail(
            "RL0605",
            f"{self.name}, line {line}: the row {message}",
            span=span,
            expected=expected,
            found=found,
        )


def _index_lines(path: Path) -> tuple[array[int], array[int]]:
    offsets, numbers, at = array("q"), array("q"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                offsets.append(at)
                numbers.append(number)
            at += len(line)
    return offsets, numbers


class ParquetRows:
    """A Parquet file, read by row group."""

    def __init__(self, path: Path) -> None:
        import pyarrow  # only who reads Parquet needs it
        import pyarrow.parquet

        self.name = str(path)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            fail(
                "RL0605",
                f"{path} is not a Parquet file",
                expected="a Parquet file",
                found=str(error).splitlines()[0],
            )
        self.columns = tuple(self._file.schema_arrow.names)
        meta = self._file.metadata
        sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        self._group_of = [(g, i) for g, size in enumerate(sizes) for i in range(size)]
        self._group: Callable[[int], Any] = lru_cache(GROUPS_KEPT)(self._file.read_row_group)

    def __len__(self) -> int:
        return len(self._group_of)

    def __getitem__(self, index: int) -> Row:
        group, inside = self._group_of[index]
        row: Row = self._group(group).slice(inside, 1).to_pylist()[0]
        return row

    def bad(self, index: int, message: str, *, expected: str, found: str) -> NoReturn:
        """Raise RL0605 with the row's number, counted from 1."""
        fail("RL0605", f"{self.name}, row {index + 1}: the row {message}", expected=expected, found=found)


class GymRows:
    """A procedural data set of reasoning-gym: row i is made from the seed and i, the same on every rank."""

    def __init__(self, args: Mapping[str, Scalar], seed: int) -> None:
        dataset = args.get("dataset")
        if not isinstance(dataset, str):
            fail(
                "RL0606",
                "a reasoning_gym source needs `dataset`",
                expected='dataset = "basic_arithmetic"',
                found=repr(dataset),
            )
        self.name = f"reasoning_gym `{dataset}`"
        rest = {k: v for k, v in args.items() if k not in OWN_ARGS and not k.endswith("_column")}
        self._data = _create(dataset, {"seed": seed, **rest})
        self.columns = tuple(self._data[0])

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Row:
        row: Row = self._data[index]
        return row

    def bad(self, index: int, message: str, *, expected: str, found: str) -> NoReturn:
        """Raise RL0605 with the row's index."""
        fail("RL0605", f"{self.name}, row {index}: the row {message}", expected=expected, found=found)


def _create(dataset: str, args: dict[str, Scalar]) -> Any:
    import reasoning_gym  # seconds to import, and only who uses it needs it
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        fail(
            "RL0606",
            f"reasoning_gym has no data set `{dataset}`",
            found=dataset,
            fix=did_you_mean(dataset, DATASETS),
        )
    config = DATASETS[dataset][1]
    known = list(inspect.signature(config).parameters)
    for name in args:
        if name not in known:
            hint = did_you_mean(name, known)
            fail(
                "RL0606",
                f"reasoning_gym `{dataset}` has no argument `{name}`",
                expected=", ".join(known),
                fix=hint,
            )
    kinds = get_type_hints(config)
    listed = {k: v.split(",") for k, v in args.items() if isinstance(v, str) and get_origin(kinds[k]) is list}
    try:
        return reasoning_gym.create_dataset(dataset, **{**args, **listed})
    except (AssertionError, ValueError, TypeError) as error:  # its configs validate themselves by assert
        fail(
            "RL0606",
            f"reasoning_gym refuses the arguments of `{dataset}`",
            found=str(error) or type(error).__name__,
        )


def open_rows(source: SourceSpec, *, source_dir: Path, seed: int) -> Rows:
    """The rows of `source`; raises RL0603 (no such file, or empty), RL0605 or RL0606."""
    if source.kind == "reasoning_gym":
        return GymRows(source.args, seed)
    kinds: dict[str, Callable[[Path], Rows]] = {"jsonl": JsonlRows, "parquet": ParquetRows}
    if source.kind not in kinds:
        fail(
            "RL0606",
            f"unknown source `{source.kind}`",
            expected=f"reasoning_gym, {', '.join(kinds)}",
            found=source.kind,
        )
    path = source_dir / str(source.args.get("path", ""))
    if not path.is_file():
        fail(
            "RL0603",
            f"data file not found: {path}",
            expected="a file, its path relative to the algorithm's folder",
            found="a folder" if path.is_dir() else "nothing there",
        )
    rows = kinds[source.kind](path)
    if not len(rows):
        fail("RL0603", f"data file has no rows: {path}", expected="at least one row", found="an empty file")
    return rows
