"""Edges between different layouts become moves of rows; edges between equal ones cost nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import AnyOp, Group, Guard, Reason, ReshardOp
from rldsl.compiler.ranks import joined, move_kind


@dataclass(frozen=True, kw_only=True)
class LowerReshards:
    """Before each op, move the fields it reads that lie in another layout; whatever else goes that way goes along.

    Before: `rollout` on 2 ranks writes `tokens`, `update` on 4 ranks reads it.
    After:  `reshard tokens: ranks0-1 -> world` between them; nothing where both run on the same ranks.
    """

    name: ClassVar[str] = "lower_reshards"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with moves between them; `groups` with those of sources and targets together."""
        moves = _Moves(module)
        ops: list[AnyOp] = []
        for op in module.ops:
            ops += moves.before(op)
            ops.append(op)
        return replace(module, ops=tuple(ops), groups=tuple(moves.groups.values()))


Way = tuple[str, str]


class _Moves:
    """Where each field lies while the ops go by, and where it is wanted next."""

    def __init__(self, module: Module) -> None:
        self.world = module.world_size
        self.groups: dict[str, Group] = {g.name: g for g in module.groups}
        self.batches = {name: module.batches[info.prompts] for name, info in module.fields.items()}
        # A move happens whenever there is something to move, whoever reads it.
        self.guards: dict[str, Guard | None] = {}
        self.lies: dict[str, str] = {}
        self.wanted: dict[str, deque[str]] = {}
        for op in module.ops:
            for name in dict.fromkeys(op.reads):
                self.wanted.setdefault(name, deque()).append(op.group)
        # By way, what is there and will be wanted at its other end before it is wanted at this one.
        self.waiting: dict[Way, dict[str, None]] = {}

    def before(self, op: AnyOp) -> list[ReshardOp]:
        """The moves that `op` needs; afterwards it has run."""
        missing = dict.fromkeys(self.lies[n] for n in op.reads if self.lies[n] != op.group)
        made = [move for source in missing for move in self.moves(source, op)]
        for name in dict.fromkeys(op.reads):
            self.wanted[name].popleft()
            self.wait(name)
        for name in op.writes:
            self.lies[name], self.guards[name] = op.group, op.guard
            self.wait(name)
        return made

    def wait(self, name: str) -> None:
        """Note where a field is to go."""
        readers = self.wanted.get(name)
        if readers and readers[0] != self.lies[name]:
            self.waiting.setdefault((self.lies[name], readers[0]), {})[name] = None

    def moves(self, source: str, op: AnyOp) -> list[ReshardOp]:
        """Everything that goes from `source` to the group of `op`, by what it has in common."""
        alike: dict[tuple[int, Guard | None], list[str]] = {}
        for name in self.waiting.pop((source, op.group)):
            alike.setdefault((self.batches[name], self.guards[name]), []).append(name)
            # A move takes the rows along: the old layout no longer has them.
            self.lies[name] = op.group
        return [
            self.move(tuple(names), source, op, number, batch, guard)
            for number, ((batch, guard), names) in enumerate(alike.items())
        ]

    def move(
        self, fields: tuple[str, ...], source: str, reader: AnyOp, number: int, batch: int, guard: Guard | None
    ) -> ReshardOp:
        here, there = self.groups[source], self.groups[reader.group]
        both = joined(here, there, self.world)
        self.groups.setdefault(both.name, both)
        why = f"`{reader.id}` runs on `{reader.group}`, its rows lie on `{source}`"
        return ReshardOp(
            id=f"reshard:{reader.id}:{source}" + (f":{number + 1}" if number else ""),
            group=both.name,
            guard=guard,
            fields=fields,
            source=source,
            target=reader.group,
            batch=batch,
            kind=move_kind(here, there, self.world),
            because=(Reason(by=LowerReshards.name, why=why),),
        )
