"""Rows that an algorithm puts out: JSON lines in the run folder, a file for each output and rank."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rldsl.backends.data.batch import Column, Data, Ragged
from rldsl.compiler.ops import OutputOp
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import fail

FOLDER = "outputs"
OWN_KEYS = frozenset({"step", "id"})


class Outputs:
    """What this rank puts out; each file begins anew with the run and grows step by step."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self._folder, self._rank = run_dir / FOLDER, rank
        self._begun: set[str] = set()

    def write(self, name: str, step: int, columns: Mapping[str, Column]) -> None:
        """Append the rows of `columns`, which are over the same rows, to `outputs/<name>-<rank>.jsonl`.

        A line is `{"step": 3, "id": 17, <field>: <value>, ...}` with fields under the names that the user gave them;
        an id is unique over ranks and steps, and for samples it is that of the sample. Closed when done, so that a
        run that is killed keeps it. RL0101 when that fails.
        """
        path = self._folder / f"{name}-{self._rank}.jsonl"
        mode = "a" if name in self._begun else "w"
        self._begun.add(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Half a surrogate pair, which UTF-8 has no bytes for, comes out as the escape that JSON has for it.
            with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines_of(step, columns))
        except OSError as error:
            fail("RL0101", f"cannot write `{path}`: {error.strerror}", fix="is there room on the disk?")


def clear_outputs(run_dir: Path, plan: Plan, world_size: int) -> None:
    """Remove what an earlier run in this folder put out and this one will not replace. RL0101 when that fails.

    Such as the rows of ranks that it does not have, or that put out nothing. Its own files each rank begins anew.
    """
    groups = {g.name: g for g in plan.groups}
    ours = {
        f"{op.name}-{rank}.jsonl"
        for op in plan.ops()
        if isinstance(op, OutputOp)
        for first, last in groups[op.group].spans(world_size)
        for rank in range(first, last)
    }
    for path in (run_dir / FOLDER).glob("*-*.jsonl"):
        try:
            if path.name not in ours:
                path.unlink()
        except OSError as error:
            fail("RL0101", f"cannot remove `{path}`, which an earlier run left: {error.strerror}")


def lines_of(step: int, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """What a line of the file says of each row of `columns`, which are over the same rows."""
    ids = next(iter(columns.values())).ids.tolist()
    names = _user_names(columns)
    values = [_values(column.data) for column in columns.values()]
    return [
        {"step": step, "id": each, **dict(zip(names, row, strict=True))}
        for each, row in zip(ids, zip(*values, strict=True), strict=True)
    ]


def _user_names(fields: Mapping[str, Column]) -> list[str]:
    """A field of a block is called `block.name` in the plan; the user called it `name`."""
    short = [name.rpartition(".")[2] for name in fields]
    names = short if len(set(short)) == len(short) else list(fields)
    return [f"field/{name}" if name in OWN_KEYS else name for name in names]


def _values(data: Data) -> list[Any]:
    """A row's value as JSON has it: a text, a number, true or false, or a list of as many as the row has tokens."""
    if isinstance(data, list):
        return data
    if isinstance(data, Ragged):
        return [_plain(row) for row in data.rows()]
    return _plain(data)


def _plain(values: Tensor) -> list[Any]:
    listed: list[Any] = values.tolist()
    # JSON has no word for infinity.
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in listed]
