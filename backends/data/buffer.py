"""The fields that are resident on this rank."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from rldsl.backends.data.batch import Column


class MissingFieldError(AssertionError):
    """An op read what no op has written, or what has been freed: the plan, or we, are wrong."""


class Buffer:
    """Columns by field name, in each layout in which this rank has them; `layout` is the one that is spoken of.

    Reads name the op, so that a wrong plan is found where it is wrong.
    """

    def __init__(self) -> None:
        self.layout: Hashable = None
        self._columns: dict[tuple[Hashable, str], Column] = {}
        self._freed: dict[tuple[Hashable, str], str] = {}

    def put(self, name: str, column: Column) -> None:
        """Define `name`, or define it anew."""
        self._columns[self.layout, name] = column
        self._freed.pop((self.layout, name), None)

    def get(self, name: str, *, op: str) -> Column:
        """The column, for `op`."""
        key = (self.layout, name)
        if key not in self._columns:
            why = f"freed by `{self._freed[key]}`" if key in self._freed else "never written"
            raise MissingFieldError(f"op `{op}` reads the field `{name}`, which is not resident: {why}")
        return self._columns[key]

    def free(self, name: str, *, op: str) -> None:
        """Drop the column."""
        self.get(name, op=op)
        del self._columns[self.layout, name]
        self._freed[self.layout, name] = op

    def take(self, name: str, *, keep: bool = False) -> Column | None:
        """The column, unless it is to be kept no longer resident here; None where this rank holds none."""
        key = (self.layout, name)
        return self._columns.get(key) if keep else self._columns.pop(key, None)

    def all(self) -> dict[str, Column]:
        """Every resident field, in whatever layout."""
        return {name: column for (_, name), column in self._columns.items()}

    def clear(self) -> None:
        """Forget everything: a new step begins."""
        self._columns.clear()
        self._freed.clear()

    def aligned(self, names: Sequence[str], *, per_prompt: int, op: str) -> dict[str, Column]:
        """The columns over the same rows in one order, prompt rows expanded to `per_prompt` samples each."""
        columns = {name: self.get(name, op=op).expand(per_prompt) for name in names}
        if not columns:
            return columns
        ids = next(iter(columns.values())).ids
        return {name: _reorder(column, ids, name, op) for name, column in columns.items()}


def _reorder(column: Column, ids: torch.Tensor, name: str, op: str) -> Column:
    if torch.equal(column.ids, ids):
        return column
    order = column.ids.argsort()
    if not torch.equal(column.ids[order], ids.sort().values):
        raise MissingFieldError(f"op `{op}`: the rows of `{name}` are not those of its other fields")
    return column.select(order[torch.searchsorted(column.ids[order], ids)])
