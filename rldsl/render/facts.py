"""What a plan tells of its fields: who writes and reads each, how many rows it has, where they lie, how they move."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from rldsl.compiler import dag
from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    ReshardOp,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
    parts,
)
from rldsl.compiler.plan import Plan
from rldsl.compiler.volume import Rows, Volumes
from rldsl.types import FieldType


class Place(NamedTuple):
    """Number `number` in the program of the ranks from `first` to below `last`."""

    first: int
    last: int | None
    number: int


class Facts:
    """The plan's ops, indexed by field and by place. Frees, moves and waits neither write nor read here.

    A forward that does the work of several nodes is several ops here, of one id.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops = tuple(parts(plan.ops()))
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

    @cached_property
    def trainings(self) -> tuple[TrainOp, ...]:
        """The ops that train, in program order."""
        return tuple(op for op in self.ops if isinstance(op, TrainOp))

    @cached_property
    def syncs(self) -> tuple[SyncWeightsOp, ...]:
        """The transfers of weights, in program order."""
        return tuple(op for op in self.ops if isinstance(op, SyncWeightsOp))

    def rollouts(self, sync: SyncWeightsOp) -> tuple[GenerateOp | ExtendOp, ...]:
        """The ops that sample with the weights that `sync` hands over."""
        return tuple(self._rollouts.get((sync.model, sync.staleness), ()))

    @cached_property
    def _rollouts(self) -> dict[tuple[str, int], list[GenerateOp | ExtendOp]]:
        found: dict[tuple[str, int], list[GenerateOp | ExtendOp]] = {}
        for op in self.ops:
            if isinstance(op, GenerateOp | ExtendOp):
                found.setdefault((op.model, op.staleness), []).append(op)
        return found

    def trunk(self, model: str) -> str:
        """The model whose trunk `model` has: itself, unless it shares one."""
        return self._trunks.get(model, model)

    @cached_property
    def _trunks(self) -> dict[str, str]:
        return {m.name: m.shares for m in self.plan.models if m.shares}

    @cached_property
    def frees(self) -> dict[str, list[FreeOp]]:
        """By field the ops that drop it."""
        found: dict[str, list[FreeOp]] = {}
        for op in self.ops:
            if isinstance(op, FreeOp):
                for name in op.fields:
                    found.setdefault(name, []).append(op)
        return found

    @cached_property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """Where each op, by id, stands in the programs that have it."""
        found: dict[str, list[Place]] = {}
        for program in self.plan.programs:
            for number, op in enumerate(program.ops):
                found.setdefault(op.id, []).append(Place(program.first, program.last, number))
        return {op: tuple(places) for op, places in found.items()}

    def rows(self, field: str) -> Rows | None:
        """How many rows the field has; None where nothing says."""
        return self.volumes.rows(field)

    def type(self, field: str) -> FieldType | None:
        """The field's type, where the plan has it."""
        return self.volumes.type(field)

    @cached_property
    def volumes(self) -> Volumes:
        """How many bytes fields have."""
        return Volumes(self.plan)

    def ranks(self, group: str) -> int | None:
        """Over how many ranks a group deals out rows; None: all, and the plan does not say how many that is."""
        return None if self.plan.world_size is None else self.plan.group(group).dp(self.plan.world_size)

    def moves(self, field: str, reader: AnyOp) -> tuple[ReshardOp, ...]:
        """The moves of the field's rows to `reader`, since they were written or another op read them, in order."""
        if field not in self._moves:
            return ()
        end = self._order[reader.id]
        users = (*self.readers.get(field, ()), *([self.writer[field]] if field in self.writer else ()))
        begin = max((at for at in (self._order[u.id] for u in users) if at < end), default=-1)
        return tuple(op for op in self.moves_of(field) if begin < self._order[op.id] < end)

    def comes_before(self, first: AnyOp, second: AnyOp) -> bool:
        """Whether `first` stands before `second`."""
        return self._order[first.id] < self._order[second.id]

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


def in_order(plan: Plan) -> Sequence[AnyOp]:
    """Every op once, in one order that agrees with all programs, as that of a plan which cannot block does."""
    ops = {op.id: op for op in plan.ops()}
    pairs = (pair for program in plan.programs for pair in pairwise(op.id for op in program.ops))
    return [ops[name] for name in dag.in_order(ops, pairs)]
