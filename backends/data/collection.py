"""The prompts that a resampling loop keeps, round after round, until there are as many as a step wants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, concat
from rldsl.backends.data.reshard import reshard
from rldsl.types import FieldType


class Collection:
    """This rank's part of the kept rows of one step, and what every rank knows: rounds, and prompts kept by all.

    A round reads `batch` prompts, numbered from a multiple of `batch`, so that a prompt's id modulo `batch` is its
    place in the round. The first `batch` prompts kept, in the order of rounds and then of ids, are numbered anew
    from `step * batch`, whatever rank they lie on.
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
        """Keep the rows of the prompts for which `where` bool[prompt] holds. Collective over `comm`."""
        assert isinstance(where.data, Tensor), "a filter has one flag a prompt"
        mine = torch.zeros(self._batch, dtype=torch.int64)
        mine[where.ids[where.data.cpu()] % self._batch] = 1
        everyone = comm.all_reduce(mine.clone())
        number = self.kept + everyone.cumsum(0) - 1
        chosen = mine.bool() & (number < self._batch)
        for name, column in columns.items():
            self._parts.setdefault(name, []).append(self._renumbered(column, chosen, number))
        self.kept += int(everyone.sum())
        self.rounds += 1

    def _renumbered(self, column: Column, chosen: Tensor, number: Tensor) -> Column:
        picked = column.select(chosen[column.prompt_ids % self._batch].nonzero()[:, 0])
        prompts = self._first + number[picked.prompt_ids % self._batch]
        ids = prompts * column.per_prompt + picked.ids % column.per_prompt
        return Column(ids, picked.data, column.per_prompt)

    def take(self, schema: Mapping[str, tuple[FieldType, int]], comm: Comm) -> dict[str, Column]:
        """The rows of the prompts chosen, laid out over `comm` as freshly loaded ones are.

        Forgets them, and is full from now on. `schema` names the fields wanted, each with its type and samples per
        prompt. Collective over `comm`.
        """
        mine = {name: concat(self._parts[name]) for name in schema if name in self._parts}
        self._parts, self._taken = {}, True
        return reshard(mine, schema, comm, target=comm.world_size, batch=self._batch)
