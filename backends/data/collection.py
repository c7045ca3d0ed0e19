"""The prompts that a resampling loop keeps, round after round, until there are as many as a step wants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, concat
from rldsl.backends.data.reshard import Dealt, reshard
from rldsl.types import FieldType

NEVER = torch.iinfo(torch.int64).max  # greater than any id


class Collection:
    """This rank's part of the kept rows of one step, and what every rank knows: rounds, and prompts kept by all.

    The first `batch` prompts kept, in the order of rounds and then of ids, are numbered anew from `step * batch`,
    whatever rank they lie on.
    """

    def __init__(self, *, batch: int, step: int) -> None:
        self._batch, self._first = batch, step * batch
        self.kept = self.rounds = 0
        self._taken = False
        self._parts: dict[str, list[Column]] = {}

    @property
    def full(self) -> bool:
        """Whether another round would be of no use."""
        return self._taken or self.kept >= self._batch

    def add(self, where: Column, columns: Mapping[str, Column], comm: Comm) -> None:
        """Keep the rows of the prompts for which `where` bool[prompt] holds. Collective over `comm`.

        What travels is one flag for each prompt of the round, numbered by their ids from the least one. Several ranks
        may hold the same prompts.
        """
        assert isinstance(where.data, Tensor), "a filter has one flag a prompt"
        least, prompts = _span(where.ids, comm)
        mine = torch.zeros(prompts, dtype=torch.int64)
        mine[where.ids[where.data.cpu()] - least] = 1
        everyone = comm.all_reduce(mine.clone()).clamp(max=1)
        number = self.kept + everyone.cumsum(0) - 1
        chosen = mine.bool() & (number < self._batch)
        for name, column in columns.items():
            picked = column.select(chosen[column.prompt_ids - least].nonzero()[:, 0])
            ids = (self._first + number[picked.prompt_ids - least]) * column.per_prompt + picked.ids % column.per_prompt
            self._parts.setdefault(name, []).append(Column(ids, picked.data, column.per_prompt))
        self.kept += int(everyone.sum())
        self.rounds += 1

    def rows(self) -> dict[str, Column]:
        """What this rank keeps of the prompts chosen, by field, in the order of rounds."""
        return {name: concat(parts) for name, parts in self._parts.items()}

    def take(self, schema: Mapping[str, tuple[FieldType, int]], comm: Comm, layout: Dealt) -> dict[str, Column]:
        """The rows of the prompts chosen, laid out over `comm` as freshly loaded ones are, and as those collected.

        Forgets them, and is full from now on. `schema` names the fields wanted, each with its type and samples per
        prompt. Collective over `comm`.
        """
        sends = layout.first[comm.rank]
        mine = {name: column for name, column in self.rows().items() if name in schema and sends}
        self._parts, self._taken = {}, True
        return reshard(mine, schema, comm, source=None, target=layout, batch=self._batch)


def _span(ids: Tensor, comm: Comm) -> tuple[int, int]:
    """The least id of all ranks, and how many there are from it to the greatest; a round's ids follow each other."""
    ends = [-int(ids.min()), int(ids.max())] if len(ids) else [-NEVER, -NEVER]
    negative, greatest = comm.all_reduce_max(torch.tensor(ends)).tolist()
    return (-negative, greatest + negative + 1) if greatest >= 0 else (0, 0)
