"""Rows between the layouts of two groups: one all-to-all of sizes, one of bytes; nothing where no row has to go.

Prompt i of the step's batch lies, with all its samples, on the ranks whose dp coordinate is i modulo dp: one rank, or
several copies, of which the first sends. A message holds, field after field: the row count, the ids, the row lengths
(ragged and text) and the values, each part padded to 8 bytes so that it can be read in place. Own rows do not pass
through the exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import TORCH_DTYPE, Column, Data, Ragged, concat, no_rows
from rldsl.compiler.plan import Group
from rldsl.types import DType, FieldType

ALIGN = 8


@dataclass(frozen=True, slots=True)
class Dealt:
    """How a group deals out rows over the ranks of a `Comm`: the dp coordinate of each, None where it gets none.

    `first` are those that stand for all with the same rows.
    """

    at: tuple[int | None, ...]
    first: tuple[bool, ...]
    dp: int

    @classmethod
    def over(cls, count: int) -> Dealt:
        """Over all ranks, `count` of them."""
        return cls(tuple(range(count)), (True,) * count, count)


def dealt(group: Group, members: Sequence[int], world_size: int) -> Dealt:
    """The layout of `group` as the ranks `members` see it."""
    places = [group.coordinates(rank, world_size) for rank in members]
    first = tuple(p is not None and p["tp"] == p["cp"] == p["pp"] == 0 for p in places)
    return Dealt(tuple(None if p is None else p["dp"] for p in places), first, group.dp(world_size))


def reshard(
    columns: Mapping[str, Column],
    schema: Mapping[str, tuple[FieldType, int]],
    comm: Comm,
    *,
    source: Dealt | None,
    target: Dealt,
    batch: int,
) -> dict[str, Column]:
    """Move rows from one layout to another. Collective over `comm`, unless no row has to leave its rank.

    Without `source` each row lies on one rank, whichever.

    `columns` are this rank's rows, empty dict where it has none yet; `schema` gives every field's type and
    samples per prompt, the same on all ranks. Returned rows are in the order of their ids.
    """
    parts = [{n: _part(columns, n, at, target.dp, batch) for n in schema} for at in target.at]
    own = {n: part for n, part in parts[comm.rank].items() if part is not None}
    received: list[Tensor] = []
    if source is None or not _stays(source, target):
        sends = [_sends(source, comm.rank, to) for to in range(comm.world_size)]
        outgoing = [_pack(part, comm) if to else _empty(comm) for to, part in zip(sends, parts, strict=True)]
        received = _exchange(outgoing, comm)
    unpacked = [_unpack(buffer, schema, comm) for buffer in received if len(buffer)]
    return {name: _merge(name, own, unpacked, schema[name], comm) for name in schema}


def _stays(source: Dealt, target: Dealt) -> bool:
    """Whether every rank has the rows that it is to have."""
    return all(
        there is None or (here is not None and target.dp % source.dp == 0 and there % source.dp == here)
        for here, there in zip(source.at, target.at, strict=True)
    )


def _sends(source: Dealt | None, rank: int, to: int) -> bool:
    """Not to itself; and of ranks that hold the same rows only the first sends, and to none of these."""
    if rank == to or source is None:
        return rank != to
    return source.first[rank] and source.at[rank] != source.at[to]


def _part(columns: Mapping[str, Column], name: str, at: int | None, dp: int, batch: int) -> Column | None:
    if name not in columns or at is None:
        return None
    column = columns[name]
    return column.select(((column.prompt_ids % batch) % dp == at).nonzero()[:, 0])


def _empty(comm: Comm) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=comm.device)


def _exchange(outgoing: Sequence[Tensor], comm: Comm) -> list[Tensor]:
    ones = [1] * comm.world_size
    sizes = torch.tensor([len(b) for b in outgoing], dtype=torch.int64, device=comm.device)
    incoming = comm.all_to_all(sizes, ones, ones).tolist()
    flat = comm.all_to_all(torch.cat(list(outgoing)), sizes.tolist(), incoming)
    return list(torch.split(flat, incoming))


def _pack(part: Mapping[str, Column | None], comm: Comm) -> Tensor:
    """All fields of the rows for one rank; nothing at all when there are no rows."""
    pieces: list[Tensor] = []
    for column in part.values():
        if column is None or not any(c is not None and len(c) for c in part.values()):
            return _empty(comm)
        pieces += _pieces(column, comm)
    return torch.cat([_bytes(p) for p in pieces]) if pieces else _empty(comm)


def _pieces(column: Column, comm: Comm) -> list[Tensor]:
    count = torch.tensor([len(column)], dtype=torch.int64)
    head = [count.to(comm.device), column.ids.to(comm.device)]
    if isinstance(column.data, Tensor):
        return [*head, column.data.to(comm.device)]
    if isinstance(column.data, Ragged):
        return [*head, column.data.lengths.to(comm.device), column.data.values.to(comm.device)]
    texts = [text.encode() for text in column.data]
    lengths = torch.tensor([len(t) for t in texts], dtype=torch.int64, device=comm.device)
    # bytearray: frombuffer wants memory it may write to, and refuses none at all
    joined = bytearray(b"".join(texts))
    values = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
    return [*head, lengths, values.to(comm.device)]


def _bytes(values: Tensor) -> Tensor:
    flat = values.contiguous().view(torch.uint8) if values.numel() else values.new_empty(0, dtype=torch.uint8)
    return torch.nn.functional.pad(flat, (0, -len(flat) % ALIGN))


class _Reader:
    def __init__(self, buffer: Tensor) -> None:
        # A slice of the received whole may start anywhere: only its clone is sure to be aligned.
        self._buffer, self._at = buffer.clone(), 0

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        size = count * dtype.itemsize
        piece = self._buffer[self._at : self._at + size]
        self._at += size + -size % ALIGN
        return piece.view(dtype)


def _unpack(buffer: Tensor, schema: Mapping[str, tuple[FieldType, int]], comm: Comm) -> dict[str, Column]:
    reader = _Reader(buffer)
    made = {}
    for name, (kind, per_prompt) in schema.items():
        rows = int(reader.take(1, torch.int64))
        ids = reader.take(rows, torch.int64).cpu()
        made[name] = Column(ids, _read_data(reader, kind, rows), per_prompt)
    return made


def _read_data(reader: _Reader, kind: FieldType, rows: int) -> Data:
    dtype = TORCH_DTYPE[kind.dtype]
    if kind.dtype is not DType.TEXT and not kind.ragged:
        return reader.take(rows, dtype)
    lengths = reader.take(rows, torch.int64)
    values = reader.take(int(lengths.sum()), dtype)
    if kind.dtype is DType.TEXT:
        return [bytes(t.tolist()).decode() for t in torch.split(values.cpu(), lengths.tolist())]
    return Ragged(values, lengths)


def _merge(
    name: str,
    own: Mapping[str, Column],
    received: Sequence[Mapping[str, Column]],
    schema: tuple[FieldType, int],
    comm: Comm,
) -> Column:
    parts = [c[name] for c in (own, *received) if name in c and len(c[name])]
    if not parts:
        return Column(torch.empty(0, dtype=torch.int64), no_rows(schema[0], comm.device), schema[1])
    whole = concat(parts)
    return whole if len(parts) == 1 and bool((whole.ids.diff() > 0).all()) else whole.select(whole.ids.argsort())
