"""What the proofs look up, built once for a plan whose names are all known."""

from __future__ import annotations

from functools import lru_cache

from rldsl.compiler.plan import (
    AnyOp,
    ExtendOp,
    FieldSpec,
    FunctionSpec,
    GenerateOp,
    Guard,
    InferOp,
    ModelSpec,
    Plan,
    Program,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.types import FieldType

Rollout = GenerateOp | ExtendOp
ROLLOUTS = (GenerateOp, ExtendOp)
WithModel = GenerateOp | ExtendOp | InferOp | TrainOp | SyncWeightsOp | SaveOp
WITH_MODEL = (GenerateOp, ExtendOp, InferOp, TrainOp, SyncWeightsOp, SaveOp)


type_of = lru_cache(256)(FieldType.parse)
"""The type that a text spells: a plan has few, in many fields."""


class Facts:
    """Tables over a plan. `ops` holds each op once, as the first program that has it.

    A layout is the number of ranks that hold a field's rows, the first ones; None stands for all ranks of a plan that
    does not fix how many there are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops: tuple[AnyOp, ...] = tuple(plan.ops())
        self.specs: dict[str, FieldSpec] = {f.name: f for f in plan.fields}
        self.types: dict[str, FieldType] = {f.name: type_of(f.type) for f in plan.fields}
        self.models: dict[str, ModelSpec] = {m.name: m for m in plan.models}
        self.functions: dict[str, FunctionSpec] = {f.name: f for f in plan.functions}
        self.layouts: dict[str, int | None] = {
            g.name: plan.world_size if g.size is None else g.size for g in plan.groups
        }
        self.trunks: dict[str, str] = {m.name: m.shares or m.name for m in plan.models}
        self.writer: dict[str, AnyOp] = {}
        for op in self.ops:
            if not isinstance(op, ReshardOp):
                for name in op.writes:
                    self.writer.setdefault(name, op)

    def covers(self, layout: int | None, other: int | None) -> bool:
        """Whether the ranks of one layout are among those of another: both are prefixes of the ranks."""
        return layout is None or (other is not None and other <= layout)

    def member(self, program: Program, group: str) -> bool:
        """Whether the first rank of a class is in a group."""
        layout = self.layouts[group]
        return layout is None or program.first < layout


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
