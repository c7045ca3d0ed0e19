"""Rows as they flow between ops: typed columns that carry the ids of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rldsl.types import DType, FieldType

TORCH_DTYPE = {
    DType.F32: torch.float32,
    DType.I64: torch.int64,
    DType.BOOL: torch.bool,
    # Texts are lists of str; between ranks they travel as UTF-8.
    DType.TEXT: torch.uint8,
}


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different length, one after the other: `values` [total, ...], `lengths` i64[rows]."""

    values: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> Tensor:
        """i64[rows + 1]: where each row begins and, last, where the last one ends."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    def rows(self) -> tuple[Tensor, ...]:
        """Each row as a view."""
        return torch.split(self.values, self.lengths.tolist())

    def select(self, index: Tensor) -> Ragged:
        """The rows at `index`, in that order."""
        parts = self.rows()
        picked = [parts[i] for i in index.tolist()]
        return Ragged(torch.cat(picked) if picked else self.values[:0], self.lengths[index])

    def padded(self, fill: float = 0) -> Tensor:
        """[rows, longest], padded on the right with `fill`."""
        width = int(self.lengths.max()) if len(self) else 0
        out = self.values.new_full((len(self), width), fill)
        out[self.valid(width)] = self.values
        return out

    def valid(self, width: int | None = None) -> Tensor:
        """bool[rows, width]: which places of the padded form are real."""
        if width is None:
            width = int(self.lengths.max()) if len(self) else 0
        return torch.arange(width, device=self.lengths.device)[None] < self.lengths[:, None]

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor) -> Ragged:
        """Drop the padding of [rows, width]."""
        valid = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
        return cls(padded[valid], lengths)

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> Ragged:
        """From a non-empty list of rows."""
        lengths = torch.tensor([len(r) for r in rows], dtype=torch.int64, device=rows[0].device)
        return cls(torch.cat(list(rows)), lengths)

    @classmethod
    def concat(cls, parts: Sequence[Ragged]) -> Ragged:
        """One after the other."""
        return cls(torch.cat([p.values for p in parts]), torch.cat([p.lengths for p in parts]))

    def to(self, device: torch.device) -> Ragged:
        """On another device."""
        return Ragged(self.values.to(device), self.lengths.to(device))


Data = Tensor | Ragged | list[str]


@dataclass(frozen=True, slots=True)
class Column:
    """A field's rows on this rank.

    `ids` i64[rows] are unique over ranks and steps: a prompt's id is step * batch + its index; a
    sample's is its prompt's id * per_prompt + k. `per_prompt` is 1 for prompt rows.
    """

    ids: Tensor
    data: Data
    per_prompt: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt_ids(self) -> Tensor:
        """i64[rows]: the id of each row's prompt."""
        return self.ids // self.per_prompt

    def select(self, index: Tensor) -> Column:
        """The rows at `index` i64[n], in that order."""
        if isinstance(self.data, list):
            data: Data = [self.data[i] for i in index.tolist()]
        elif isinstance(self.data, Ragged):
            data = self.data.select(index)
        else:
            data = self.data[index]
        return Column(self.ids[index], data, self.per_prompt)

    def to(self, device: torch.device) -> Column:
        """With the data on another device; ids stay, and texts."""
        data = self.data if isinstance(self.data, list) else self.data.to(device)
        return Column(self.ids, data, self.per_prompt)

    def expand(self, per_prompt: int) -> Column:
        """Prompt rows repeated for each of their `per_prompt` samples; sample rows as they are."""
        if self.per_prompt == per_prompt:
            return self
        if self.per_prompt != 1:
            raise ValueError(f"rows with {self.per_prompt} samples a prompt cannot become {per_prompt} a prompt")
        index = torch.arange(len(self), device=self.ids.device).repeat_interleave(per_prompt)
        ids = self.ids[index] * per_prompt + torch.arange(per_prompt, device=self.ids.device).repeat(len(self))
        return Column(ids, self.select(index).data, per_prompt)


def no_rows(kind: FieldType, device: torch.device) -> Data:
    """The data of a field of type `kind` without any row."""
    if kind.dtype is DType.TEXT:
        return []
    values = torch.empty(0, dtype=TORCH_DTYPE[kind.dtype], device=device)
    return Ragged(values, torch.empty(0, dtype=torch.int64, device=device)) if kind.ragged else values


def concat(parts: Sequence[Column]) -> Column:
    """One after the other the rows of one field; `parts` is not empty."""
    first = parts[0].data
    if isinstance(first, Ragged):
        data: Data = Ragged.concat([p.data for p in parts if isinstance(p.data, Ragged)])
    elif isinstance(first, Tensor):
        data = torch.cat([p.data for p in parts if isinstance(p.data, Tensor)])
    else:
        data = [text for p in parts if isinstance(p.data, list) for text in p.data]
    return Column(torch.cat([p.ids for p in parts]), data, parts[0].per_prompt)
