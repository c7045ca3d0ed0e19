"""When each class of ranks does what, counting every op as long as any other, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    FreeOp,
    OffloadOp,
    OnloadOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    WaitOp,
    parts,
)
from rldsl.compiler.plan import Plan, Program
from rldsl.render.facts import in_order
from rldsl.render.nodes import NodeView, node_id, nodes_of
from rldsl.render.ranks import ranks_of
from rldsl.render.words import kind_of

_MOVES = "move rows"


class Mark(Enum):
    """What a rank does in a column: works alone, works and meets others, communicates; or something runs beside."""

    ALONE = "█"
    MEETS = "▓"
    TALKS = "◆"
    BESIDE = "▒"
    WAITS = "░"


@dataclass(frozen=True, slots=True)
class Row:
    """What one node does, by column; it does nothing in the others, or runs on beside them between those in `spans`."""

    label: str
    role: str
    marks: Mapping[int, Mark]
    spans: tuple[tuple[int, int], ...] = ()

    def at(self, columns: range) -> dict[int, Mark]:
        """All marks in these columns."""
        beside = (range(max(a + 1, columns.start), min(b, columns.stop)) for a, b in self.spans)
        found = {column: Mark.BESIDE for each in beside for column in each}
        return found | {column: mark for column in columns if (mark := self.marks.get(column))}


@dataclass(frozen=True, slots=True)
class Wait:
    """Ranks wait in `op` for those of other classes, which before it run what these do not: `ops`."""

    op: str
    number: int
    last: str
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """The rows of one class of ranks; `numbers` are those of the ops in its program, None where it does nothing.

    `lane` is all that it does, with the role of each column; it is `waiting` where it stands in a collective.
    """

    title: str
    rows: tuple[Row, ...]
    numbers: tuple[int | None, ...]
    lane: Mapping[int, tuple[Mark, str]]
    waits: tuple[Wait, ...] = ()


def charts_of(plan: Plan, programs: Sequence[Program] | None = None, only: frozenset[str] | None = None) -> list[Chart]:
    """A chart for each of `programs`, all with the same columns; `only` are the ids of the ops shown."""
    shown = [plan.programs.index(p) for p in (programs or plan.programs)]
    run = _Run(plan)
    used = {run.starts[p, op.id] for p in shown for op in run.ops[p] if only is None or op.id in only}
    columns = {start: i for i, start in enumerate(sorted(used))}
    nodes = {n.id: n for n in nodes_of(plan)}
    return [_chart(run, p, columns, nodes, only) for p in shown]


class _Run:
    """Every op begun as early as its ranks can, each one column long; a collective when its last ranks are there."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ops = [[op for op in p.ops if not isinstance(op, FreeOp)] for p in plan.programs]
        self.numbers = [{op.id: i for i, op in enumerate(p.ops)} for p in plan.programs]
        self.starts: dict[tuple[int, str], int] = {}
        self.gaps: list[dict[str, tuple[int, int, tuple[int, ...]]]] = [{} for _ in plan.programs]
        clock = [0] * len(plan.programs)
        holders: dict[str, list[int]] = {}
        for index, ops in enumerate(self.ops):
            for op in ops:
                holders.setdefault(op.id, []).append(index)
        for each in in_order(plan):
            if not isinstance(each, FreeOp):
                self._begin(each, holders[each.id], clock)

    def _begin(self, op: AnyOp, holders: Sequence[int], clock: list[int]) -> None:
        """What runs in the background begins alone, and is waited for until its last ranks have begun it too."""
        come = [clock[p] for p in holders]
        if isinstance(op, WaitOp):
            come = [self.starts[p, op.begun] + 1 for p in holders if (p, op.begun) in self.starts]
        latest = max(come, default=0) if isinstance(op, WaitOp) or (op.collective and not _beside(op)) else 0
        late = tuple(p for p, there in zip(holders, come, strict=False) if there == latest)
        for p in holders:
            if clock[p] < latest:
                self.gaps[p][op.id] = clock[p], latest, late
            self.starts[p, op.id] = max(latest, clock[p])
        for p in holders:
            clock[p] = self.starts[p, op.id] + 1

    def waits(self, p: int) -> Iterator[Wait]:
        """Where ranks of program `p` stand in a collective, in order."""
        for op in self.ops[p]:
            if op.id in self.gaps[p]:
                begin, end, late = self.gaps[p][op.id]
                ranks = [ranks_of(self.plan.programs[q], self.plan.world_size) for q in late]
                during = [o for o in self.ops[late[0]] if begin <= self.starts[late[0], o.id] < end]
                names = tuple(dict.fromkeys(o.node or kind_of(o) for o in during))
                yield Wait(kind_of(op), self.numbers[p][op.id], " and ".join(ranks), names)


def _chart(
    run: _Run, p: int, columns: Mapping[int, int], nodes: dict[str, NodeView], only: frozenset[str] | None
) -> Chart:
    rows: dict[tuple[str, str], dict[int, Mark]] = {}
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    numbers: list[int | None] = [None] * len(columns)
    lane: dict[int, tuple[Mark, str]] = {}
    shown = [op for op in run.ops[p] if only is None or op.id in only]
    begun = {op.id: op for op in shown if _beside(op)}
    for op in shown:
        column = columns[run.starts[p, op.id]]
        numbers[column] = run.numbers[p][op.id]
        lane[column] = _mark(op), _role(op, nodes)
        for part in parts((op,)):
            named = begun.get(part.begun, part) if isinstance(part, WaitOp) else part
            key = _label(named, nodes), _role(named, nodes)
            marks = rows.setdefault(key, {})
            if isinstance(op, WaitOp) and marks:
                spans.setdefault(key, []).append((max(marks), column))
            marks[column] = _mark(op)
    for op in shown:
        begin, end, _ = run.gaps[p].get(op.id, (0, 0, ()))
        lane.update({columns[at]: (Mark.WAITS, "") for at in range(begin, end) if at in columns})
    made = tuple(Row(*key, marks, tuple(spans.get(key, ()))) for key, marks in rows.items())
    waits = tuple(w for w in run.waits(p) if only is None or run.plan.programs[p].ops[w.number].id in only)
    return Chart(ranks_of(run.plan.programs[p], run.plan.world_size), made, tuple(numbers), lane, waits)


def _label(op: AnyOp, nodes: dict[str, NodeView]) -> str:
    if isinstance(op, ReshardOp):
        return _MOVES
    if isinstance(op, OnloadOp | OffloadOp):
        return f"{op.state} of {op.model}"
    if isinstance(op, SyncWeightsOp | SaveOp):
        return f"{'weights of' if isinstance(op, SyncWeightsOp) else 'save'} {op.model}"
    node = nodes.get(node_id(op))
    return node.label if node else node_id(op)


def _role(op: AnyOp, nodes: dict[str, NodeView]) -> str:
    node = None if isinstance(op, SyncWeightsOp) else nodes.get(node_id(op))
    return node.role if node else ""


def _beside(op: AnyOp) -> bool:
    """Whether the op only begins where it stands."""
    return isinstance(op, ComputeOp | SyncWeightsOp) and op.background


def _mark(op: AnyOp) -> Mark:
    if isinstance(op, ReshardOp | SyncWeightsOp | CollectOp | TakeOp):
        return Mark.TALKS
    if isinstance(op, ComputeOp) and op.background:
        return Mark.BESIDE
    if isinstance(op, WaitOp):
        return Mark.WAITS
    return Mark.MEETS if op.collective else Mark.ALONE
