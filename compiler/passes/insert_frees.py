"""Fields are dropped after their last reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec import structs

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, FreeOp, Guard, ReshardOp
from rldsl.compiler.passes.base import Context

Held = tuple[str, object]
"""A field, and a layout in which ranks hold it."""


@dataclass(frozen=True, kw_only=True)
class InsertFrees:
    """In each layout free each field right after the op that reads it last; a move that comes last takes it along.

    Before: `rollout -> completions`, `reward(completions) -> score`, ...
    After:  `free completions` follows `reward`.
    """

    name: ClassVar[str] = "insert_frees"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with frees, and moves with what they leave behind."""
        layouts = {g.name: g.layout(module.world_size) for g in module.groups}
        last = {held: index for index, op in enumerate(module.ops) for held in _touched(op, layouts)}
        guards = {name: op.guard for op in module.ops if not isinstance(op, ReshardOp) for name in op.writes}
        ops: list[AnyOp] = []
        for index, op in enumerate(module.ops):
            if isinstance(op, ReshardOp):
                there = layouts[op.source]
                ops.append(structs.replace(op, keeps=tuple(n for n in op.fields if last[n, there] > index)))
                continue
            ops.append(op)
            done: dict[Guard | None, list[str]] = {}
            for name, layout in dict.fromkeys(_touched(op, layouts)):
                if last[name, layout] == index:
                    done.setdefault(guards[name], []).append(name)
            ops += [_free(op, tuple(names), guard, i) for i, (guard, names) in enumerate(done.items())]
        return replace(module, ops=tuple(ops))


def _touched(op: AnyOp, layouts: Mapping[str, object]) -> Iterator[Held]:
    """What an op reads, writes or moves, where it does so."""
    ends = (op.source, op.target) if isinstance(op, ReshardOp) else (op.group,)
    return ((name, layouts[end]) for end in ends for name in (*op.reads, *op.writes))


def _free(op: AnyOp, names: tuple[str, ...], guard: Guard | None, number: int) -> FreeOp:
    """What was written under a guard is only there to be freed when that holds."""
    suffix = f":{number + 1}" if number else ""
    return FreeOp(id=f"free:{op.id}{suffix}", group=op.group, guard=guard, fields=names)
