"""Each read finds its rows: written before, not yet dropped, and on the ranks that read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    MetricOp,
    OutputOp,
    ReshardOp,
    TakeOp,
    WaitOp,
)
from rldsl.compiler.plan import Program
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
    counted = {op.guard.until for op in facts.ops if isinstance(op, (MetricOp, OutputOp)) and op.guard is not None}
    read = {f for op in facts.ops for f in op.reads if not isinstance(op, ReshardOp)}
    for op in facts.ops:
        if isinstance(op, ReshardOp):
            if not op.fields:
                yield f"`{op.id}` names no field"
            continue
        writes = op.writes
        for name in writes:
            if name not in read:
                yield f"`{op.id}` computes `{name}`, which nothing reads"
        # A function without any result is called for what else it does.
        if not writes and (isinstance(op, (GenerateOp, ExtendOp)) or (isinstance(op, ComputeOp) and op.outputs)):
            yield f"`{op.id}` computes nothing that is kept"
        if not writes and isinstance(op, TakeOp) and op.collection not in counted:
            yield f"`{op.id}` computes nothing that is kept"
        if isinstance(op, CollectOp) and op.into in counted:
            continue
        if isinstance(op, (FreeOp, OutputOp, CollectOp)) and not op.fields:
            yield f"`{op.id}` names no field"


@dataclass(slots=True)
class _Held:
    """Rows of a field on these ranks: when they are there, and by which move they came, or were kept, still unread."""

    guard: Guard | None
    moved: str | None = None
    kept: str | None = None


class _Walk:
    def __init__(self, facts: Facts, program: Program) -> None:
        self.facts, self.program = facts, program
        # By name, in each layout in which these ranks have it.
        self.held: dict[str, dict[Layout, _Held]] = {}
        # What runs in the background, and the rows that each of its fields had when it began.
        self.running: dict[str, tuple[ComputeOp, dict[str, _Held | None]]] = {}

    def problems(self) -> Iterator[str]:
        """What is wrong in this program, with its ranks."""
        where = f" ({ranks_of(self.program)})"
        for op in self.program.ops:
            for problem in self.move(op) if isinstance(op, ReshardOp) else self.step(op):
                yield problem + where
        for name, held in self.held.items():
            if held:
                yield f"`{name}` is never freed{where}"

    def step(self, op: AnyOp) -> Iterator[str]:
        layout = self.facts.layouts[op.group]
        for name in op.reads:
            held = self.rows(name, layout)
            yield from self.found(op, name, held, op.group)
            if held is not None:
                held.moved = held.kept = None
        if isinstance(op, FreeOp):
            yield from self.free(op, layout)
        writes = op.writes
        if isinstance(op, ComputeOp) and op.background:
            self.running[op.id] = op, {name: self.rows(name, layout) for name in op.reads}
            return
        if isinstance(op, WaitOp) and op.begun in self.running:
            begun, rows = self.running.pop(op.begun)
            writes = begun.writes
            for name, held in rows.items():
                if held is not self.rows(name, layout):
                    yield f"`{name}` is dropped, moved or written anew while `{begun.id}` reads it in the background"
        for name in writes:
            if self.held.get(name):
                yield f"`{op.id}` writes `{name}` while it is still held"
            self.held[name] = {layout: _Held(op.guard)}

    def free(self, op: FreeOp, layout: Layout) -> Iterator[str]:
        for name in op.fields:
            held = self.rows(name, layout)
            yield from self.found(op, name, held, op.group)
            if held is None:
                continue
            del self.held[name][layout]
            if held.moved is not None:
                yield f"`{held.moved}` moves `{name}` for nothing: it is dropped unread"
            if held.kept is not None:
                yield f"`{held.kept}` keeps `{name}` for nothing: it is dropped unread"

    def rows(self, name: str, layout: Layout) -> _Held | None:
        return self.held.get(name, {}).get(layout)

    def found(self, op: AnyOp, name: str, held: _Held | None, group: str) -> Iterator[str]:
        """Whether the rows are where, and whenever, `op` wants them."""
        does = "drops" if isinstance(op, FreeOp) else "reads"
        if held is None:
            lies = next(iter(self.held.get(name, ())), None)
            if lies is None:
                yield f"`{op.id}` {does} `{name}`, which is not there"
            else:
                yield f"`{op.id}` {does} `{name}` on `{group}`, but its rows lie on {lies}"
            return
        # A move and a drop follow the writer exactly; another reader may only run less often.
        if held.guard != op.guard and (held.guard is not None or isinstance(op, (ReshardOp, FreeOp))):
            yield f"`{op.id}` {does} `{name}` {shown(op.guard)}, and it is there {shown(held.guard)}"

    def move(self, op: ReshardOp) -> Iterator[str]:
        source, target = self.facts.layouts[op.source], self.facts.layouts[op.target]
        if source == target:
            yield f"`{op.id}` moves rows to where they lie"
        yield from (f"`{op.id}` keeps `{n}`, which it does not move" for n in set(op.keeps) - set(op.fields))
        for name in op.fields:
            if self.facts.member(self.program, op.source):
                held = self.rows(name, source)
                yield from self.found(op, name, held, op.source)
                if held is not None:
                    yield from self.leave(op, name, source, held)
            if self.facts.member(self.program, op.target):
                if self.rows(name, target) is not None:
                    yield f"`{op.id}` writes `{name}` while it is still held"
                self.held.setdefault(name, {})[target] = _Held(op.guard, moved=op.id)

    def leave(self, op: ReshardOp, name: str, source: Layout, held: _Held) -> Iterator[str]:
        """What becomes of the rows at the source."""
        if name in op.keeps:
            held.kept = op.id
            return
        del self.held[name][source]
        if held.moved is not None:
            yield f"`{held.moved}` moves `{name}` for nothing: it moves on unread"
