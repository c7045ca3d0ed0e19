"""Fields are dropped after their last reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import AnyOp, FreeOp, Guard, ReshardOp


@dataclass(frozen=True, kw_only=True)
class InsertFrees:
    """Free each field right after the op that reads it last.

    Before: `rollout -> completions`, `reward(completions) -> score`, ...
    After:  `free completions` follows `reward`.
    """

    name: ClassVar[str] = "insert_frees"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with frees."""
        last: dict[str, int] = {}
        for index, op in enumerate(module.ops):
            last.update(dict.fromkeys((*op.reads, *op.writes), index))
        guards = {name: op.guard for op in module.ops if not isinstance(op, ReshardOp) for name in op.writes}
        ops: list[AnyOp] = []
        for index, op in enumerate(module.ops):
            ops.append(op)
            done: dict[Guard | None, list[str]] = {}
            for name in dict.fromkeys((*op.reads, *op.writes)):
                if last[name] == index:
                    done.setdefault(guards[name], []).append(name)
            ops += [_free(op, tuple(names), guard, i) for i, (guard, names) in enumerate(done.items())]
        return replace(module, ops=tuple(ops))


def _free(op: AnyOp, names: tuple[str, ...], guard: Guard | None, number: int) -> FreeOp:
    """What was written under a guard is only there to be freed when that holds."""
    suffix = f":{number + 1}" if number else ""
    return FreeOp(id=f"free:{op.id}{suffix}", group=op.group, guard=guard, fields=names)
