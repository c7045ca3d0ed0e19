"""What runs in the background while other ops run, and so holds memory beside them."""

from __future__ import annotations

from collections.abc import Sequence

from rldsl.compiler.ops import AnyOp, SyncWeightsOp, WaitOp


def transfers_beside(ops: Sequence[AnyOp]) -> dict[int, tuple[SyncWeightsOp, ...]]:
    """By number of an op the transfers that have begun before it and have not been waited for before it."""
    found: dict[int, tuple[SyncWeightsOp, ...]] = {}
    running: dict[str, SyncWeightsOp] = {}
    for number, op in enumerate(ops):
        if running:
            found[number] = tuple(running.values())
        if isinstance(op, SyncWeightsOp) and op.background:
            running[op.id] = op
        elif isinstance(op, WaitOp):
            running.pop(op.begun, None)
    return found
