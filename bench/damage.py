"""Kinds of damage to plans. Each takes a valid plan and gives a damaged one, or None where it has nothing to damage.

What is damaged is chosen at random, by `Damage.rng`. Left out is what a plan is free to say, and the hash alone
protects: settings within their ranges (a learning rate, the `every` of an output), and which of two fields of one type
a function is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    LoadOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.plan import Plan, Program

Ops = tuple[AnyOp, ...]
Kind = Callable[["Damage"], Plan | None]
KINDS: dict[str, Kind] = {}
TYPES = ("f32[prompt]", "f32[sample]", "f32[sample, token]", "i64[sample]", "i64[sample, token]", "bool[prompt]",
         "bool[sample]", "bool[sample, token]", "text[prompt]", "text[sample]")  # fmt: skip
MODEL_OPS = (GenerateOp, ExtendOp, InferOp, TrainOp, SyncWeightsOp, SaveOp)
BATCHED = (LoadOp, TrainOp, CollectOp, TakeOp, ReshardOp)


def kind(name: str) -> Callable[[Kind], Kind]:
    """Register a kind of damage."""

    def add(function: Kind) -> Kind:
        assert name not in KINDS, name
        KINDS[name] = function
        return function

    return add


class Damage:
    """A plan to be damaged, and the dice."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self.plan, self.rng = plan, rng

    def one(self, of: Iterable[Any]) -> Any:
        """One of some, or None of none."""
        listed = list(of)
        return self.rng.choice(listed) if listed else None

    def op(self, *kinds: type[AnyOp]) -> Any:
        """One op of some types, of any type if none is named."""
        return self.one(op for op in self.plan.ops() if not kinds or isinstance(op, kinds))

    def other(self, of: Iterable[Any], than: object) -> Any:
        """One of some that differs from `than`."""
        return self.one(each for each in of if each != than)

    def off(self, number: int) -> int:
        """One more or one less."""
        return number + self.rng.choice((-1, 1))

    def mapped(self, change: Callable[[Ops], Ops], only: Program | None = None) -> Plan:
        """The plan with other ops in all programs, or in one."""
        programs = tuple(replace(p, ops=change(p.ops)) if only in (None, p) else p for p in self.plan.programs)
        return replace(self.plan, programs=programs)

    def changed(self, op: AnyOp | None, only: Program | None = None, /, **fields: Any) -> Plan | None:
        """The plan with other values in one op."""
        if op is None:
            return None
        return self.mapped(lambda ops: tuple(replace(o, **fields) if o.id == op.id else o for o in ops), only)

    def dropped(self, op: AnyOp | None, only: Program | None = None) -> Plan | None:
        """The plan without an op."""
        if op is None:
            return None
        return self.mapped(lambda ops: tuple(o for o in ops if o.id != op.id), only)

    def followed(self, op: AnyOp | None, by: AnyOp | None) -> Plan | None:
        """The plan with one op more, right after another, wherever that one is."""
        if op is None or by is None:
            return None
        return self.mapped(lambda ops: tuple(x for o in ops for x in ((o, by) if o.id == op.id else (o,))))

    def moved(self, op: AnyOp | None, before: AnyOp | None = None) -> Plan | None:
        """The plan with an op elsewhere: right before another, or last."""
        if op is None:
            return None

        def change(ops: Ops) -> Ops:
            rest = [o for o in ops if o.id != op.id]
            at = next((i for i, o in enumerate(rest) if before is not None and o.id == before.id), len(rest))
            return (*rest[:at], *(o for o in ops if o.id == op.id), *rest[at:])

        return self.mapped(change)

    def swapped(self, a: AnyOp | None, b: AnyOp | None, only: Program | None = None) -> Plan | None:
        """The plan with two ops in each other's place."""
        if a is None or b is None or a.id == b.id:
            return None
        other = {a.id: b, b.id: a}
        return self.mapped(lambda ops: tuple(other.get(o.id, o) for o in ops), only)

    def shared(self) -> Any:
        """A program and an op of it that another program has as well."""
        counts: dict[str, int] = {}
        for program in self.plan.programs:
            for op in program.ops:
                counts[op.id] = counts.get(op.id, 0) + 1
        return self.one((p, op) for p in self.plan.programs for op in p.ops if counts[op.id] > 1)

    def header(self, **fields: Any) -> Plan:
        """The plan with another header."""
        return replace(self.plan, **fields)

    def without(self, what: str, number: int | None = None) -> Plan | None:
        """The plan without one of its declarations."""
        declared: Sequence[Any] = getattr(self.plan, what)
        gone = self.rng.randrange(len(declared)) if declared and number is None else number
        return None if gone is None else self.header(**{what: tuple(d for i, d in enumerate(declared) if i != gone)})

    def spec(self, what: str, change: Callable[[Any], Any]) -> Plan | None:
        """The plan with one of its declarations changed."""
        declared: Sequence[Any] = getattr(self.plan, what)
        if not declared:
            return None
        at = self.rng.randrange(len(declared))
        made = tuple(replace(d, **change(d)) if i == at else d for i, d in enumerate(declared))
        return self.header(**{what: made})
