"""When each class of ranks does what, in columns that all classes share, and who waits for whom."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, count
from typing import NamedTuple

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    OffloadOp,
    OnloadOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    WaitOp,
    in_background,
    parts,
)
from rldsl.compiler.plan import Plan, Program
from rldsl.render.nodes import NodeView, node_id, nodes_of
from rldsl.render.ranks import ranks_of
from rldsl.render.run import Ran, Run, Time
from rldsl.render.words import kind_of

_MOVES = "move rows"


class Mark(Enum):
    """What a rank does in a column: works alone, works and meets others, communicates; or something runs beside."""

    ALONE = "█"
    MEETS = "▓"
    TALKS = "◆"
    BESIDE = "▒"
    WAITS = "░"


class Bar(NamedTuple):
    """Op `number` of the program runs in the columns from `begin` to before `end`."""

    begin: int
    end: int
    mark: Mark
    number: int
    role: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What one node does; it does nothing in the columns without a bar."""

    label: str
    role: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Ranks wait in `op` for those of other classes, which before it run what these do not: `ops`.

    `behind` are others again, for which those wait themselves meanwhile.
    """

    op: str
    number: int
    last: str
    ops: tuple[str, ...]
    seconds: float = 0.0
    behind: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """The rows of one class of ranks. By column `numbers` has the op of its program that begins there, if one does.

    `lane` is all that it does or waits for. `seconds` are those of each column, none where the plan predicts none;
    `taken` those of the ops by their numbers.
    """

    title: str
    rows: tuple[Row, ...]
    numbers: tuple[int | None, ...]
    lane: tuple[Bar, ...]
    waits: tuple[Wait, ...] = ()
    seconds: tuple[float, ...] = ()
    taken: Mapping[int, float] = field(default_factory=dict)


def charts_of(plan: Plan, programs: Sequence[Program] | None = None, only: frozenset[str] | None = None) -> list[Chart]:
    """A chart for each of `programs`, all with the same columns; `only` are the ids of the ops shown."""
    shown = [plan.programs.index(p) for p in (programs or plan.programs)]
    run = Run(plan)
    ran = {p: [r for r in run.ran[p] if only is None or r.op.id in only] for p in shown}
    columns = _Columns(r for each in ran.values() for r in each)
    nodes = {n.id: n for n in nodes_of(plan)}
    return [_Drawing(plan, run, p, columns, nodes).chart(ran[p]) for p in shown]


def round_seconds(seconds: float) -> float:
    """The least of 1, 2, 5, 10, 20, ... microseconds that is no less, for a scale."""
    steps = (digit * 10.0**power * 1e-6 for power in count() for digit in (1, 2, 5))
    return next(step for step in steps if step >= seconds)


class _Columns:
    """Stretches of time in which the same ops run on all classes of ranks; none in which nothing does."""

    def __init__(self, ran: Iterable[Ran]) -> None:
        change: dict[Time, int] = {}
        for each in ran:
            change[each.begin] = change.get(each.begin, 0) + 1
            change[each.end] = change.get(each.end, 0) - 1
            if each.until is not None:
                change.setdefault(each.until, 0)
        self._times = sorted(change)
        running = list(accumulate(change[t] for t in self._times))
        # How many columns there are before each time.
        self._before = [0, *accumulate(int(ops > 0) for ops in running)]
        pairs = zip(self._times, self._times[1:], running, strict=False)
        self.seconds = tuple(after.seconds - time.seconds for time, after, ops in pairs if ops)
        self.count = len(self.seconds)

    def at(self, time: Time) -> int:
        """The column that begins then, or else the first after it."""
        return self._before[bisect_left(self._times, time)]


class _Drawing:
    """Makes the chart of program `p`."""

    def __init__(self, plan: Plan, run: Run, p: int, columns: _Columns, nodes: Mapping[str, NodeView]) -> None:
        self._plan, self._run, self._p, self._columns, self._nodes = plan, run, p, columns, nodes
        self._known = {op.id: op for op in plan.programs[p].ops if in_background(op)}

    def chart(self, ran: Sequence[Ran]) -> Chart:
        rows: dict[tuple[str, str], list[Bar]] = {}
        numbers: list[int | None] = [None] * self._columns.count
        lane: list[Bar] = []
        for each in ran:
            own = self._bar(each.begin, each.end, _mark(each.op), each, _role(each.op, self._nodes))
            numbers[own.begin] = each.number
            if each.came < each.begin:
                lane.append(self._bar(each.came, each.begin, Mark.WAITS, each))
            lane.append(own)
            for part in parts((each.op,)):
                # A wait stands in the row of what it waits for.
                of = self._known.get(part.begun, part) if isinstance(part, WaitOp) else part
                bars = rows.setdefault((_label(of, self._nodes), _role(of, self._nodes)), [])
                if each.until is not None and each.until > each.end:
                    bars.append(self._bar(each.end, each.until, Mark.BESIDE, each))
                bars.append(own)
        return Chart(
            title=ranks_of(self._plan.programs[self._p], self._plan.world_size),
            rows=tuple(Row(*key, tuple(b for b in bars if b.begin < b.end)) for key, bars in rows.items()),
            numbers=tuple(numbers),
            lane=tuple(bar for bar in lane if bar.begin < bar.end),
            waits=tuple(self._waits(ran)),
            seconds=self._columns.seconds if any(self._columns.seconds) else (),
            taken={r.number: r.end.seconds - r.begin.seconds for r in ran},
        )

    def _bar(self, begin: Time, end: Time, mark: Mark, ran: Ran, role: str = "") -> Bar:
        return Bar(self._columns.at(begin), self._columns.at(end), mark, ran.number, role)

    def _waits(self, ran: Iterable[Ran]) -> Iterator[Wait]:
        """Where ranks stand in a collective, in order."""
        for each in ran:
            if each.late:
                during = self._run.during(each.late[0], each.came, each.begin)
                names = tuple(dict.fromkeys(r.op.node or kind_of(r.op) for r in during))
                seconds = each.begin.seconds - each.came.seconds
                behind = next((r.late for r in during if r.late and r.begin > each.came), ())
                last, others = self._ranks(each.late), self._ranks(q for q in behind if q != self._p)
                yield Wait(kind_of(each.op), each.number, last, names, seconds, others)

    def _ranks(self, programs: Iterable[int]) -> str:
        return " and ".join(ranks_of(self._plan.programs[q], self._plan.world_size) for q in programs)


def _label(op: AnyOp, nodes: Mapping[str, NodeView]) -> str:
    if isinstance(op, ReshardOp):
        return _MOVES
    if isinstance(op, OnloadOp | OffloadOp):
        return f"{op.state} of {op.model}"
    if isinstance(op, SyncWeightsOp | SaveOp):
        return f"{'weights of' if isinstance(op, SyncWeightsOp) else 'save'} {op.model}"
    node = nodes.get(node_id(op))
    return node.label if node else node_id(op)


def _role(op: AnyOp, nodes: Mapping[str, NodeView]) -> str:
    node = None if isinstance(op, SyncWeightsOp) else nodes.get(node_id(op))
    return node.role if node else ""


def _mark(op: AnyOp) -> Mark:
    if in_background(op):
        return Mark.BESIDE
    if isinstance(op, WaitOp):
        return Mark.WAITS
    if isinstance(op, ReshardOp | SyncWeightsOp | CollectOp | TakeOp):
        return Mark.TALKS
    return Mark.MEETS if op.collective else Mark.ALONE
