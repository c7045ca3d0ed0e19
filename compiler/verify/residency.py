"""Each read finds its rows: written before, not yet dropped, and on the ranks that read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rldsl.compiler.plan import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    MetricOp,
    OutputOp,
    Program,
    ReshardOp,
    TakeOp,
    WaitOp,
)
from rldsl.compiler.verify.facts import Facts, Layout, ranks_of, shown


def residency(facts: Facts) -> Iterator[str]:
    """Walks each program with the fields that its ranks hold; and what is computed is read by something."""
    yield from _once(facts)
    yield from _read(facts)
    for program in facts.plan.programs:
        yield from _Walk(facts, program).problems()


def _once(facts: Facts) -> Iterator[str]:
    """Each field has one writer, so that a name means the same rows wherever it stands."""
    for op in facts.ops:
        if isinstance(op, ReshardOp):
            continue
        for name in op.writes:
            if facts.writer[name] is not op:
                yield f"`{op.id}` writes `{name}`, as `{facts.writer[name].id}` does"


def _read(facts: Facts) -> Iterator[str]:
    """Each op that only computes has a result, and each result a reader.

    A collection may hold no field if what is logged waits for its count.
    """
    counted = {op.guard.until for op in facts.ops if isinstance(op, MetricOp | OutputOp) and op.guard is not None}
    read = {f for op in facts.ops for f in op.reads if not isinstance(op, ReshardOp)}
    for op in facts.ops:
        if isinstance(op, ReshardOp):
            continue
        writes = op.writes
        for name in writes:
            if name not in read:
                yield f"`{op.id}` computes `{name}`, which nothing reads"
        # A function without any result is called for what else it does.
        if not writes and (isinstance(op, GenerateOp | ExtendOp) or (isinstance(op, ComputeOp) and op.outputs)):
            yield f"`{op.id}` computes nothing that is kept"
        if not writes and isinstance(op, TakeOp) and op.collection not in counted:
            yield f"`{op.id}` computes nothing that is kept"
        if isinstance(op, CollectOp) and op.into in counted:
            continue
        if isinstance(op, ReshardOp | FreeOp | OutputOp | CollectOp) and not op.fields:
            yield f"`{op.id}` names no field"


@dataclass(slots=True)
class _Held:
    """Rows of a field on these ranks: their layout, when they are there, and by which move they came, still unread."""

    layout: Layout
    guard: Guard | None
    moved: str | None = None


class _Walk:
    def __init__(self, facts: Facts, program: Program) -> None:
        self.facts, self.program = facts, program
        self.held: dict[str, _Held] = {}
        # What runs in the background, and the rows that each of its fields had when it began.
        self.running: dict[str, tuple[ComputeOp, dict[str, _Held | None]]] = {}

    def problems(self) -> Iterator[str]:
        """What is wrong in this program, with its ranks."""
        where = f" ({ranks_of(self.program)})"
        for op in self.program.ops:
            for problem in self.step(op):
                yield problem + where
        for name in self.held:
            yield f"`{name}` is never freed{where}"

    def step(self, op: AnyOp) -> Iterator[str]:
        if isinstance(op, ReshardOp):
            yield from self.move(op)
            return
        layout = self.facts.layouts[op.group]
        for name in op.reads:
            held = self.held.get(name)
            yield from self.found(op, name, held, layout, op.group)
            if held is not None:
                held.moved = None
        if isinstance(op, FreeOp):
            for name in op.fields:
                held = self.held.pop(name, None)
                yield from self.found(op, name, held, layout, op.group)
                if held is not None and held.moved is not None:
                    yield f"`{held.moved}` moves `{name}` for nothing: it is dropped unread"
        writes = op.writes
        if isinstance(op, ComputeOp) and op.background:
            self.running[op.id] = op, {name: self.held.get(name) for name in op.reads}
            return
        if isinstance(op, WaitOp) and op.compute in self.running:
            begun, rows = self.running.pop(op.compute)
            writes = begun.writes
            for name, held in rows.items():
                if held is not self.held.get(name):
                    yield f"`{name}` is dropped, moved or written anew while `{begun.id}` reads it in the background"
        for name in writes:
            if name in self.held:
                yield f"`{op.id}` writes `{name}` while it is still held"
            self.held[name] = _Held(layout, op.guard)

    def found(self, op: AnyOp, name: str, held: _Held | None, layout: Layout, group: str) -> Iterator[str]:
        """Whether the rows are where, and whenever, `op` wants them."""
        does = "drops" if isinstance(op, FreeOp) else "reads"
        if held is None:
            yield f"`{op.id}` {does} `{name}`, which is not there"
            return
        if held.layout != layout:
            yield f"`{op.id}` {does} `{name}` on `{group}`, but its rows lie on {held.layout}"
        # A move and a drop follow the writer exactly; another reader may only run less often.
        if held.guard != op.guard and (held.guard is not None or isinstance(op, ReshardOp | FreeOp)):
            yield f"`{op.id}` {does} `{name}` {shown(op.guard)}, and it is there {shown(held.guard)}"

    def move(self, op: ReshardOp) -> Iterator[str]:
        source, target = self.facts.layouts[op.source], self.facts.layouts[op.target]
        if source == target:
            yield f"`{op.id}` moves rows to where they lie"
        leaves, arrives = self.facts.member(self.program, op.source), self.facts.member(self.program, op.target)
        for name in op.fields:
            guard = op.guard
            if leaves:
                held = self.held.pop(name, None)
                yield from self.found(op, name, held, source, op.source)
                if held is not None and held.moved is not None:
                    yield f"`{held.moved}` moves `{name}` for nothing: it moves on unread"
            if arrives:
                if name in self.held:
                    yield f"`{op.id}` writes `{name}` while it is still held"
                self.held[name] = _Held(target, guard, moved=op.id)
