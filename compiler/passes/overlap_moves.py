"""States come back beside the work of other ops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec import structs

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, OnloadOp, Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class OverlapMoves:
    """Begin to bring a state back before earlier ops, in the background, and wait for it right before what uses it.

    It begins at the latest place from which what runs beside it hides its seconds, where the budget leaves room for its
    bytes from there on. Which states move, and what ops choose, stays as `plan_memory` has it.
    Before: `old`, `onload reference.weights`, `ref`
    After:  `onload reference.weights` in the background, `old`, `wait for reference.weights`, `ref`
    """

    name: ClassVar[str] = "overlap_moves"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with waits, and `memory` with the bytes that states take on their way."""
        if module.planned is None:
            return module
        planned, known = module.planned.early(), {op.id: op for op in module.ops}
        if not planned.memory.hidden:
            return module
        ops = tuple(_begun(op, planned.memory) if _begins(op) else known.get(op.id, op) for op in planned.ops)
        return replace(module, ops=ops, memory=planned.memory)


def _begins(op: AnyOp) -> bool:
    return isinstance(op, OnloadOp) and op.background


def _begun(op: AnyOp, memory: MemoryPlan) -> AnyOp:
    """The onload, with what it is good for."""
    why = f"{memory.hidden[op.id]:.2g} s of it run beside other ops"
    return structs.replace(op, because=(*op.because, Reason(by=OverlapMoves.name, why=why)))
