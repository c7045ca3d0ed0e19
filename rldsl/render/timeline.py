"""The schedule as a chart: a row a node, a column an op, in the order in which ranks run them.

No op has a time yet, so a column is no length of time: the chart shows what follows what, and which ranks wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rldsl.render.schedule import Chart, Mark, Wait
from rldsl.render.style import role_style

_LABEL = 24
_NOTHING = "·"
_LEGEND = {
    Mark.ALONE: "works by itself",
    Mark.MEETS: "works, and ranks meet in it",
    Mark.TALKS: "only moves rows or weights",
    Mark.BESIDE: "in the background",
    Mark.WAITS: "waits",
}


class TimelineView:
    """Charts one below the other, cut into parts where a terminal is too narrow for all columns.

    Several classes of ranks have a lane each above their charts; below them stands who waits for whom.
    """

    def __init__(self, charts: Sequence[Chart]) -> None:
        self._charts = charts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self._charts[0].numbers) if self._charts else 0
        if not count:
            return
        names = [c.title for c in self._charts] + [r.label for c in self._charts for r in c.rows]
        label = min(_LABEL, max(map(len, names)) + 2)
        room = max(10, options.max_width - label)
        cell = 3 if count * 3 <= room else 1
        yield Text("Schedule", style="bold").append(
            "   a column an op, in order; no lengths of time are known yet", style="dim not bold"
        )
        for begin in range(0, count, room // cell):
            yield from self._part(range(begin, min(count, begin + room // cell)), label, cell)
        marks = dict.fromkeys(m for c in self._charts for m in _marks(c))
        legend = (f"{m.value} {text}" for m, text in _LEGEND.items() if m in marks)
        yield Text("  ".join(legend), style="dim")
        for chart in self._charts:
            yield from (Text(wait_words(chart, wait)) for wait in chart.waits)

    def _part(self, columns: range, label: int, cell: int) -> Iterator[Text]:
        if len(self._charts) > 1:
            yield from (_lane(chart, columns, label, cell) for chart in self._charts)
        for chart in self._charts:
            yield from _drawn(chart, columns, label, cell)


def _marks(chart: Chart) -> Iterator[Mark]:
    yield from (mark for mark, _ in chart.lane.values())
    yield from (mark for row in chart.rows for mark in row.marks.values())


def wait_words(chart: Chart, wait: Wait) -> str:
    """`ranks 2 to 3 wait in op 3, reshard, for ranks 0 to 1, which run rollout`."""
    text = f"{chart.title} wait{'' if chart.title.startswith('ranks') else 's'} in op {wait.number}, {wait.op}, for "
    return f"{text}{wait.last}, which run{'' if wait.last.startswith('ranks') else 's'} {', '.join(wait.ops)}"


def _lane(chart: Chart, columns: range, label: int, cell: int) -> Text:
    """All that a class of ranks does, in one line."""
    line = Text(f"{chart.title:<{label}}", style="bold")
    for column in columns:
        mark, role = chart.lane.get(column, (None, ""))
        line.append(_cell(mark, cell), style=f"not bold {_style(mark, role)}")
    return line


def _drawn(chart: Chart, columns: range, label: int, cell: int) -> Iterator[Text]:
    ruler = _ruler(chart.numbers[columns.start : columns.stop], cell)
    yield Text.assemble((f"{chart.title:<{label}}", "bold"), (ruler, "dim"))
    for row in chart.rows:
        if marks := row.at(columns):
            name = row.label if len(row.label) < label else f"{row.label[: label - 2]}…"
            yield _line(name, row.role, marks, columns, label, cell)


def _line(name: str, role: str, marks: Mapping[int, Mark], columns: range, label: int, cell: int) -> Text:
    line = Text(f"{name:<{label}}", style=role_style(role) if role else "dim")
    for mark in map(marks.get, columns):
        line.append(_cell(mark, cell), style=_style(mark, role))
    return line


def _ruler(numbers: Sequence[int | None], cell: int) -> str:
    """The numbers of the ops over their columns, or of as many as have room."""
    text = ""
    for index, number in enumerate(numbers):
        if number is not None and (not text or len(text) < index * cell):
            text = text.ljust(index * cell) + str(number) + ("" if cell > 1 else "  ")
    return text.rstrip()


def _cell(mark: Mark | None, cell: int) -> str:
    text = mark.value if mark else _NOTHING
    return (text if mark in (None, Mark.TALKS) else text * max(1, cell - 1)).ljust(cell)


def _style(mark: Mark | None, role: str) -> str:
    if mark is None:
        return "dim"
    if mark is Mark.WAITS:
        return "red"
    return "bold yellow" if mark is Mark.TALKS else role_style(role)
