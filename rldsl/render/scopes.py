"""Names in blocks: `BLOCK.name`, and `LOOP.2.name` in the second iteration of an unrolled loop."""

from __future__ import annotations

from dataclasses import dataclass

from rldsl.compiler.ops import AnyOp, LoadOp


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a name stands: in no block (`""`), in a block, in an iteration of a loop (`round` counts from 1)."""

    block: str = ""
    round: int = 0

    @property
    def prefix(self) -> str:
        """`resample.2`, `test`, or nothing."""
        return f"{self.block}.{self.round}" if self.round else self.block


def scope_of(name: str) -> Scope:
    """The scope of a node or field of a plan; what a loop hands out, `talk.tokens`, is in no iteration."""
    block, *rest = name.split(".")
    if not rest:
        return Scope()
    return Scope(block, int(rest[0])) if len(rest) > 1 and rest[0].isdecimal() else Scope(block)


def scope_of_op(op: AnyOp) -> Scope:
    """The scope of the op's node, or of what a load reads."""
    if isinstance(op, LoadOp):
        return scope_of(op.columns[0])
    return scope_of(op.node or "")


def leaf(name: str) -> str:
    """The name as the user wrote it: `tokens` of `resample.2.tokens`."""
    return name.rpartition(".")[2]


def general(name: str) -> str:
    """The name without the number of the iteration: `resample.rollout` of `resample.2.rollout`."""
    scope = scope_of(name)
    return f"{scope.block}.{leaf(name)}" if scope.round else name


def inside(name: str, scope: Scope) -> str:
    """The name as it is seen from within `scope`: without the prefix, if it stands right there.

    `resample.kept.answers`, what a loop kept of an input, is `resample.answers` elsewhere.
    """
    own = scope_of(name)
    return leaf(name) if own == scope else f"{own.prefix}.{leaf(name)}" if own.block else name
