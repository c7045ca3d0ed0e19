"""What a plan tells of its fields: who writes and reads each, how many rows it has, where they lie, how they move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from rldsl.compiler import dag
from rldsl.compiler.plan import AnyOp, CollectOp, FreeOp, LoadOp, Plan, ReshardOp, TakeOp, WaitOp
from rldsl.render.words import plural
from rldsl.types import FieldType


class Place(NamedTuple):
    """Number `number` in the program of the ranks from `first` to below `last`."""

    first: int
    last: int | None
    number: int


@dataclass(frozen=True, slots=True)
class Rows:
    """`prompts` prompts a step, at most so many after a filter, with `per_prompt` rows each."""

    prompts: int
    per_prompt: int
    at_most: bool = False

    @property
    def count(self) -> int:
        """All of them, on all ranks together."""
        return self.prompts * self.per_prompt

    def words(self) -> str:
        """`8 prompts x 4 samples = 32 rows`."""
        limit = "at most " if self.at_most else ""
        if self.per_prompt == 1:
            return f"{limit}{plural(self.prompts, 'prompt')}, a row each"
        return f"{limit}{plural(self.prompts, 'prompt')} x {self.per_prompt} samples = {plural(self.count, 'row')}"

    def share(self, ranks: int | None) -> str:
        """`16 a rank on 2 ranks`; a prompt's rows lie on one rank."""
        if ranks is None:
            return "spread over all ranks, a prompt's rows on one"
        least, more = divmod(self.prompts, ranks)
        each = str(least * self.per_prompt)
        if more:
            each += f" or {(least + 1) * self.per_prompt}"
        return f"{each} a rank on {plural(ranks, 'rank')}"


class Facts:
    """The plan's ops, indexed by field and by place. Frees, moves and waits neither write nor read here."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops = tuple(plan.ops())
        self._working = [op for op in self.ops if not isinstance(op, (FreeOp, ReshardOp, WaitOp))]

    @cached_property
    def writer(self) -> dict[str, AnyOp]:
        """The op that writes each field."""
        return {f: op for op in self._working for f in op.writes}

    @cached_property
    def readers(self) -> dict[str, tuple[AnyOp, ...]]:
        """The ops that read each field, in program order."""
        found: dict[str, list[AnyOp]] = {}
        for op in self._working:
            for name in dict.fromkeys(op.reads):
                found.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @property
    def frees(self) -> tuple[FreeOp, ...]:
        """The ops that drop fields."""
        return tuple(op for op in self.ops if isinstance(op, FreeOp))

    @cached_property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """Where each op, by id, stands in the programs that have it."""
        found: dict[str, list[Place]] = {}
        for program in self.plan.programs:
            for number, op in enumerate(program.ops):
                found.setdefault(op.id, []).append(Place(program.first, program.last, number))
        return {op: tuple(places) for op, places in found.items()}

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """In program order a field's writer comes after the writers of what that reads."""
        known: dict[str, Rows] = {}
        per_prompt = {f.name: f.per_prompt for f in self.plan.fields}
        for op in self._working:
            source = _batch(op) or next((known[f] for f in op.reads if f in known), None)
            if source:
                known.update({f: Rows(source.prompts, per_prompt.get(f, 1), source.at_most) for f in op.writes})
        return known

    def rows(self, field: str) -> Rows | None:
        """How many rows the field has; None where nothing says."""
        return self._rows.get(field) if field in self._types else None

    def type(self, field: str) -> FieldType | None:
        """The field's type, where the plan has it."""
        return self._types.get(field)

    @cached_property
    def _types(self) -> dict[str, FieldType]:
        return {f.name: FieldType.parse(f.type) for f in self.plan.fields}

    def ranks(self, group: str) -> int | None:
        """How many ranks a group has; None: all, and the plan does not say how many that is."""
        size = next((g.size for g in self.plan.groups if g.name == group), None)
        return self.plan.world_size if size is None else size

    def moves(self, field: str, reader: AnyOp) -> tuple[ReshardOp, ...]:
        """The moves of the field's rows to `reader`, since they were written or another op read them, in order."""
        end = self._order[reader.id]
        users = (*self.readers.get(field, ()), *([self.writer[field]] if field in self.writer else ()))
        begin = max((at for at in (self._order[u.id] for u in users) if at < end), default=-1)
        return tuple(op for op in self.moves_of(field) if begin < self._order[op.id] < end)

    def moves_of(self, field: str) -> tuple[ReshardOp, ...]:
        """All moves of the field's rows, in order."""
        return self._moves.get(field, ())

    @cached_property
    def _order(self) -> dict[str, int]:
        return {op.id: i for i, op in enumerate(self.ops)}

    @cached_property
    def _moves(self) -> dict[str, tuple[ReshardOp, ...]]:
        found: dict[str, list[ReshardOp]] = {}
        for op in self.ops:
            if isinstance(op, ReshardOp):
                for name in op.fields:
                    found.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    def collects(self, collection: str) -> tuple[CollectOp, ...]:
        """The ops that fill a collection."""
        return tuple(op for op in self.ops if isinstance(op, CollectOp) and op.into == collection)


def _batch(op: AnyOp) -> Rows | None:
    if isinstance(op, LoadOp):
        return Rows(op.batch, 1)
    return Rows(op.batch, 1, at_most=True) if isinstance(op, TakeOp) else None


def in_order(plan: Plan) -> Sequence[AnyOp]:
    """Every op once, in one order that agrees with all programs, as that of a plan which cannot block does."""
    ops = {op.id: op for op in plan.ops()}
    pairs = (pair for program in plan.programs for pair in pairwise(op.id for op in program.ops))
    return [ops[name] for name in dag.in_order(ops, pairs)]
