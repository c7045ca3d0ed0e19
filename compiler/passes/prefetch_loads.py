"""Rows of the next step are read during this one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, LoadOp, Reason
from rldsl.compiler.passes.base import Context


@dataclass(frozen=True, kw_only=True)
class PrefetchLoads:
    """Once a load has its rows, begin to read the next ones of its stream.

    They are wanted whatever happens: by the stream's next round, or else by the first of the next step. A validation
    reads the same rows each time, and seldom: it does not keep them in memory from one time to the next.
    Before: `load prompts, answers`   After:  the same, with `prefetch`
    """

    name: ClassVar[str] = "prefetch_loads"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops, loads of training rows with `prefetch`."""
        return replace(module, ops=tuple(_ahead(op) for op in module.ops))


def _ahead(op: AnyOp) -> AnyOp:
    if not isinstance(op, LoadOp) or op.first:
        return op
    reason = Reason(
        by=PrefetchLoads.name, why="each step reads on in this stream: its next rows are wanted for certain"
    )
    return msgspec.structs.replace(op, prefetch=True, because=(*op.because, reason))
