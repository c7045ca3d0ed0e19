"""Fields are dropped after their last reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import AnyOp, FreeOp


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
        ops: list[AnyOp] = []
        for index, op in enumerate(module.ops):
            ops.append(op)
            done = tuple(dict.fromkeys(f for f in (*op.reads, *op.writes) if last[f] == index))
            if done:
                ops.append(FreeOp(id=f"free:{op.id}", group=op.group, fields=done))
        return replace(module, ops=tuple(ops))
