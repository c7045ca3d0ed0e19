"""Edges between different layouts become moves of rows; edges between equal ones cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, Guard, Move, Reason, ReshardOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Group
from rldsl.compiler.ranks import joined, move_kind


@dataclass(frozen=True, kw_only=True)
class LowerReshards:
    """Before each op, give the fields it reads the layout of its group; whatever else goes that way goes along.

    A field goes once to each layout in which anything reads it: from where it was written, or from where nothing has
    to be sent.
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


class _Moves:
    """In which layouts each field lies while the ops go by, and in which others it will be wanted.

    A layout goes by the name of the first group that has it: groups may differ in what moves no rows.
    """

    def __init__(self, module: Module) -> None:
        self.world = module.world_size
        self.groups: dict[str, Group] = {g.name: g for g in module.groups}
        first: dict[object, str] = {}
        self.layout = {g.name: first.setdefault(g.layout(self.world), g.name) for g in module.groups}
        self.batches = {name: module.batches[info.prompts] for name, info in module.fields.items()}
        # A move happens whenever there is something to move, whoever reads it.
        self.guards: dict[str, Guard | None] = {}
        self.wanted: dict[str, dict[str, None]] = {}
        for op in module.ops:
            for name in op.reads:
                self.wanted.setdefault(name, {})[self.layout[op.group]] = None
        # Of each field, the layout in which it was written and those in which it came to lie.
        self.lies: dict[str, dict[str, None]] = {}
        # By source and target, what was written here and is wanted there.
        self.waiting: dict[tuple[str, str], dict[str, None]] = {}

    def before(self, op: AnyOp) -> list[ReshardOp]:
        """The moves that `op` needs; afterwards it has run."""
        here = self.layout[op.group]
        sources: dict[str, list[str]] = {}
        for name in dict.fromkeys(op.reads):
            if here not in self.lies[name]:
                sources.setdefault(self.source(name, here), []).append(name)
        made = [move for source, names in sources.items() for move in self.moves(source, op, names)]
        for name in op.writes:
            self.lies[name], self.guards[name] = {here: None}, op.guard
            for there in self.wanted.get(name, ()):
                if there != here:
                    self.waiting.setdefault((here, there), {})[name] = None
        return made

    def source(self, name: str, target: str) -> str:
        """The layout from which a field goes to another one."""
        written = next(iter(self.lies[name]))
        local = (s for s in self.lies[name] if self.kind(s, target) is Move.LOCAL)
        return next(local, written)

    def kind(self, source: str, target: str) -> Move:
        return move_kind(self.groups[source], self.groups[target], self.world)

    def moves(self, source: str, op: AnyOp, names: list[str]) -> list[ReshardOp]:
        """What goes from `source` to the group of `op`, with all that will, by what it has in common."""
        there = self.layout[op.group]
        alike: dict[tuple[int, Guard | None], list[str]] = {}
        for name in dict.fromkeys((*self.waiting.pop((source, there), ()), *names)):
            if there not in self.lies[name]:
                alike.setdefault((self.batches[name], self.guards[name]), []).append(name)
                self.lies[name][there] = None
        return [
            self.move(tuple(fields), source, op, number, batch, guard)
            for number, ((batch, guard), fields) in enumerate(alike.items())
        ]

    def move(
        self, fields: tuple[str, ...], source: str, reader: AnyOp, number: int, batch: int, guard: Guard | None
    ) -> ReshardOp:
        both = joined(self.groups[source], self.groups[reader.group], self.world)
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
            kind=self.kind(source, reader.group),
            because=(Reason(by=LowerReshards.name, why=why),),
        )
