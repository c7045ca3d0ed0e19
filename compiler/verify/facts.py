"""What the proofs look up, built once for a plan whose names are all known."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, Guard, InferOp, ReshardOp, SaveOp, SyncWeightsOp, TrainOp
from rldsl.compiler.plan import FieldSpec, FunctionSpec, Group, ModelSpec, Plan, Program
from rldsl.compiler.ranks import Ranks, contains, words
from rldsl.types import FieldType

Rollout = GenerateOp | ExtendOp
ROLLOUTS = (GenerateOp, ExtendOp)
WithModel = GenerateOp | ExtendOp | InferOp | TrainOp | SyncWeightsOp | SaveOp
WITH_MODEL = (GenerateOp, ExtendOp, InferOp, TrainOp, SyncWeightsOp, SaveOp)


type_of = lru_cache(256)(FieldType.parse)
"""The type that a text spells: a plan has few, in many fields."""


class Layout(msgspec.Struct, frozen=True):
    """How a group holds rows: its ranks, None for all of a plan that does not fix how many, and its axes."""

    ranks: Ranks | None
    tp: int = 1
    cp: int = 1
    pp: int = 1

    @property
    def size(self) -> int | None:
        """How many ranks there are."""
        return None if self.ranks is None else sum(last - first for first, last in self.ranks)

    @property
    def dp(self) -> int | None:
        """Over how many of them the rows of a batch are dealt out."""
        return None if self.size is None else self.size // (self.tp * self.cp * self.pp)

    def covers(self, other: Layout) -> bool:
        """Whether the ranks of `other` are among these."""
        return self.ranks is None or (other.ranks is not None and contains(self.ranks, other.ranks))

    def has(self, rank: int) -> bool:
        """Whether `rank` is one of these."""
        return self.ranks is None or any(first <= rank < last for first, last in self.ranks)

    def __str__(self) -> str:
        if self.ranks is None:
            return "all ranks"
        axes = [f"{axis} = {n}" for axis, n in (("tp", self.tp), ("cp", self.cp), ("pp", self.pp)) if n > 1]
        return ", ".join([words(self.ranks), *axes])


class Facts:
    """Tables over a plan. `ops` holds each op once, as the first program that has it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops: tuple[AnyOp, ...] = tuple(plan.ops())
        self.specs: dict[str, FieldSpec] = {f.name: f for f in plan.fields}
        self.types: dict[str, FieldType] = {f.name: type_of(f.type) for f in plan.fields}
        self.models: dict[str, ModelSpec] = {m.name: m for m in plan.models}
        self.functions: dict[str, FunctionSpec] = {f.name: f for f in plan.functions}
        self.layouts: dict[str, Layout] = {g.name: _layout(g, plan.world_size) for g in plan.groups}
        self.trunks: dict[str, str] = {m.name: m.shares or m.name for m in plan.models}
        self.writer: dict[str, AnyOp] = {}
        for op in self.ops:
            if not isinstance(op, ReshardOp):
                for name in op.writes:
                    self.writer.setdefault(name, op)

    def member(self, program: Program, group: str) -> bool:
        """Whether the first rank of a class is in a group."""
        return self.layouts[group].has(program.first)


def _layout(group: Group, world: int | None) -> Layout:
    ranks = group.ranks or (None if world is None else ((0, world),))
    return Layout(ranks, group.tp, group.cp, group.pp)


def ranks_of(program: Program) -> str:
    """`rank 3`, `ranks 0-1`, `ranks from 0`."""
    if program.last is None:
        return f"ranks from {program.first}"
    return f"rank {program.first}" if program.last - program.first == 1 else f"ranks {program.first}-{program.last - 1}"


def shown(guard: Guard | None) -> str:
    """When something runs, in words."""
    if guard is None:
        return "always"
    every = f"in every {guard.every}th step" if guard.every else ""
    until = f"while `{guard.until}` is not full" if guard.until is not None else ""
    return " and ".join(filter(None, (every, until))) or "by an empty guard"


def some(names: list[str]) -> str:
    """A list of names, the first few of a long one."""
    head = ", ".join(f"`{n}`" for n in names[:8])
    return head if len(names) <= 8 else f"{head} and {len(names) - 8} more"
