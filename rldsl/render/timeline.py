"""The schedule as a chart: a row a node, a column an op, in the order in which ranks run them.

No op has a time yet, so a column is no length of time: the chart shows what follows what, and which ranks pause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rldsl.compiler.plan import (
    AnyOp,
    CollectOp,
    FreeOp,
    Plan,
    Program,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    parts,
)
from rldsl.render.facts import in_order
from rldsl.render.nodes import NodeView, node_id, nodes_of
from rldsl.render.ranks import ranks_of
from rldsl.render.style import role_style

_LABEL = 24
_MOVES = "move rows"
_NOTHING = "·"


class Mark(Enum):
    """What a rank does in a column: works by itself, works and meets others in it, or only communicates."""

    ALONE = "█"
    MEETS = "▓"
    TALKS = "◆"


@dataclass(frozen=True, slots=True)
class Row:
    """What one node does, by column; it does nothing in the others."""

    label: str
    role: str
    marks: Mapping[int, Mark]


@dataclass(frozen=True, slots=True)
class Chart:
    """The rows of one class of ranks; `numbers` are those of the ops in its program, None where it pauses."""

    title: str
    rows: tuple[Row, ...]
    numbers: tuple[int | None, ...]


def charts_of(plan: Plan, programs: Sequence[Program] | None = None, only: frozenset[str] | None = None) -> list[Chart]:
    """A chart for each of `programs`, all with the same columns; `only` are the ids of the ops shown."""
    columns = [op for op in in_order(plan) if not isinstance(op, FreeOp) and (only is None or op.id in only)]
    nodes = {n.id: n for n in nodes_of(plan)}
    return [_chart(plan, p, columns, nodes) for p in (programs or plan.programs)]


def _chart(plan: Plan, program: Program, columns: Sequence[AnyOp], nodes: dict[str, NodeView]) -> Chart:
    number = {op.id: i for i, op in enumerate(program.ops)}
    rows: dict[tuple[str, str], dict[int, Mark]] = {}
    for column, op in enumerate(columns):
        if op.id in number:
            for part in parts((op,)):
                rows.setdefault((_label(part, nodes), _role(part, nodes)), {})[column] = _mark(op)
    made = tuple(Row(label, role, marks) for (label, role), marks in rows.items())
    return Chart(ranks_of(program, plan.world_size), made, tuple(number.get(op.id) for op in columns))


def _label(op: AnyOp, nodes: dict[str, NodeView]) -> str:
    if isinstance(op, ReshardOp):
        return _MOVES
    if isinstance(op, SyncWeightsOp | SaveOp):
        return f"{'weights of' if isinstance(op, SyncWeightsOp) else 'save'} {op.model}"
    node = nodes.get(node_id(op))
    return node.label if node else node_id(op)


def _role(op: AnyOp, nodes: dict[str, NodeView]) -> str:
    node = None if isinstance(op, SyncWeightsOp) else nodes.get(node_id(op))
    return node.role if node else ""


def _mark(op: AnyOp) -> Mark:
    if isinstance(op, ReshardOp | SyncWeightsOp | CollectOp | TakeOp):
        return Mark.TALKS
    return Mark.MEETS if op.collective else Mark.ALONE


class TimelineView:
    """Charts one below the other, cut into parts where a terminal is too narrow for all columns."""

    def __init__(self, charts: Sequence[Chart]) -> None:
        self._charts = charts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self._charts[0].numbers) if self._charts else 0
        if not count:
            return
        label = min(_LABEL, max(len(r.label) for c in self._charts for r in c.rows) + 2)
        room = max(10, options.max_width - label)
        cell = 3 if count * 3 <= room else 1
        yield Text("Schedule", style="bold").append(
            "   a column an op, in order; no lengths of time are known yet", style="dim not bold"
        )
        for begin in range(0, count, room // cell):
            columns = range(begin, min(count, begin + room // cell))
            for chart in self._charts:
                yield from _drawn(chart, columns, label, cell)
        yield Text("█ works by itself  ▓ works, and ranks meet in it  ◆ only moves rows or weights", style="dim")


def _drawn(chart: Chart, columns: range, label: int, cell: int) -> Iterator[Text]:
    yield Text(chart.title, style="bold")
    yield Text(" " * label + _ruler(chart.numbers[columns.start : columns.stop], cell), style="dim")
    for row in chart.rows:
        if row.marks.keys().isdisjoint(columns):
            continue
        name = row.label if len(row.label) < label else f"{row.label[: label - 2]}…"
        line = Text(f"{name:<{label}}", style=role_style(row.role) if row.role else "dim")
        for mark in (row.marks.get(column) for column in columns):
            line.append(_cell(mark, cell), style=_style(mark, row.role))
        yield line


def _ruler(numbers: Sequence[int | None], cell: int) -> str:
    """The numbers of the ops over their columns, or of as many as have room."""
    text = ""
    for index, number in enumerate(numbers):
        if number is not None and (not text or len(text) < index * cell):
            text = text.ljust(index * cell) + str(number) + ("" if cell > 1 else "  ")
    return text.rstrip()


def _cell(mark: Mark | None, cell: int) -> str:
    text = mark.value if mark else _NOTHING
    return (text * max(1, cell - 1) if mark in (Mark.ALONE, Mark.MEETS) else text).ljust(cell)


def _style(mark: Mark | None, role: str) -> str:
    if mark is None:
        return "dim"
    return "bold yellow" if mark is Mark.TALKS else role_style(role)
