"""The schedule as a chart: a row a node, to the scale of predicted seconds where there are any, else a column an op."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rldsl.render.schedule import Bar, Chart, Mark, Wait, round_seconds
from rldsl.render.style import role_style
from rldsl.render.words import duration

_LABEL = 24
_NOTHING = "·"
_NAMED = 8  # ops that a wait is for
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
        if not self._charts or not self._charts[0].numbers:
            return
        names = [c.title for c in self._charts] + [r.label for c in self._charts for r in c.rows]
        scale = Scale(self._charts[0], options.max_width, min(_LABEL, max(map(len, names)) + 2))
        yield Text("Schedule", style="bold").append(f"   {scale.words}", style="dim not bold")
        yield from _Parts(self._charts, scale).lines()
        marks = {bar.mark for c in self._charts for bar in (*c.lane, *(b for r in c.rows for b in r.bars))}
        legend = (f"{m.value} {text}" for m, text in _LEGEND.items() if m in marks)
        yield Text("  ".join(legend), style="dim")
        for chart in self._charts:
            yield from (Text(wait_words(chart, wait)) for wait in chart.waits)


class Scale:
    """How many characters columns have, and how they are cut into parts of a terminal's width behind labels."""

    def __init__(self, chart: Chart, width: int, label: int) -> None:
        self.label, room = label, max(10, width - label)
        count = len(chart.numbers)
        # To scale a third of the room is left for what takes longer than others.
        able, wanted = ((3, 2), count * 3 / 2) if chart.seconds else ((3,), count)
        self.least = next((least for least in able if wanted * least <= room), 1)
        self.words = "a column an op, in order; no lengths of time are known yet"
        widths = [self.least] * count
        if chart.seconds:
            each, widths = _to_scale(chart.seconds, self.least, room)
            unit = "a character" if self.least == 1 else f"{self.least} characters"
            self.words = f"a character is {duration(each)}, as predicted; what is shorter, or not known, has {unit}"
        self.offsets = [0, *accumulate(widths)]
        self.parts = list(_parts(widths, room))
        self.part_of = [index for index, columns in enumerate(self.parts) for _ in columns]

    def width(self, begin: int, end: int) -> int:
        """Characters of the columns from `begin` to before `end`."""
        return self.offsets[end] - self.offsets[begin]


def _to_scale(seconds: Sequence[float], least: int, room: int) -> tuple[float, list[int]]:
    """The least round number of seconds a character that leaves room for all, and the columns' widths."""
    room = max(room, len(seconds) * least) if least > 1 else max(room, len(seconds) + room // 2)
    each = 0.0
    while True:
        each = round_seconds(max(each * 1.5, sum(seconds) / room))
        widths = [max(least, min(room, round(s / each))) for s in seconds]
        if sum(widths) <= room or each > sum(seconds):
            return each, widths


def _parts(widths: Sequence[int], room: int) -> Iterator[range]:
    """As many columns at a time as have room."""
    begin = used = 0
    for column, width in enumerate(widths):
        if used + width > room and column > begin:
            yield range(begin, column)
            begin, used = column, 0
        used += width
    yield range(begin, len(widths))


def wait_words(chart: Chart, wait: Wait) -> str:
    """`ranks 2 to 3 wait 1.2 s in op 3, reshard, for ranks 0 to 1, which run rollout`."""
    long = f" {duration(wait.seconds)}" if wait.seconds else ""
    several = chart.title.startswith("ranks")
    text = f"{chart.title} wait{'' if several else 's'}{long} in op {wait.number}, {wait.op}, for "
    more = [f"{len(wait.ops) - _NAMED} more"] if len(wait.ops) > _NAMED else []
    names = ", ".join([*wait.ops[:_NAMED], *more])
    s = "" if wait.last.startswith("ranks") else "s"
    behind = f"wait{s} for {wait.behind}, then " if wait.behind else ""
    return f"{text}{wait.last}, which {behind}run{s} {names}"


class _Parts:
    """The lines of each part: only rows that do something in it."""

    def __init__(self, charts: Sequence[Chart], scale: Scale) -> None:
        self._charts, self._scale = charts, scale
        self._dots = ["".join(_NOTHING.ljust(scale.width(c, c + 1)) for c in columns) for columns in scale.parts]
        self._lanes = [self._cut(chart.lane) for chart in charts]
        # Of each chart and part the rows by their places.
        self._rows: list[list[list[tuple[int, list[Bar]]]]] = []
        for chart in charts:
            parts: list[list[tuple[int, list[Bar]]]] = [[] for _ in scale.parts]
            for place, row in enumerate(chart.rows):
                for index, bars in self._cut(row.bars).items():
                    parts[index].append((place, bars))
            self._rows.append(parts)

    def lines(self) -> Iterator[Text]:
        """All parts, one below the other."""
        for index in range(len(self._scale.parts)):
            if len(self._charts) > 1:
                for chart, lane in zip(self._charts, self._lanes, strict=True):
                    yield self._line(Text(self._name(chart.title), style="bold"), lane.get(index, []), index)
            for chart, parts in zip(self._charts, self._rows, strict=True):
                yield Text.assemble((self._name(chart.title), "bold"), (self._ruler(chart, index), "dim"))
                for place, bars in parts[index]:
                    row = chart.rows[place]
                    name = Text(self._name(row.label), style=role_style(row.role) if row.role else "dim")
                    yield self._line(name, [bar._replace(role=row.role) for bar in bars], index)

    def _cut(self, bars: Iterable[Bar]) -> dict[int, list[Bar]]:
        """By part those that lie in it, each only as far as it does."""
        found: dict[int, list[Bar]] = {}
        for bar in bars:
            for index in range(self._scale.part_of[bar.begin], self._scale.part_of[bar.end - 1] + 1):
                columns = self._scale.parts[index]
                inside = bar._replace(begin=max(bar.begin, columns.start), end=min(bar.end, columns.stop))
                found.setdefault(index, []).append(inside)
        return found

    def _name(self, label: str) -> str:
        room = self._scale.label
        return label.ljust(room) if len(label) < room else f"{label[: room - 2]}… "

    def _ruler(self, chart: Chart, index: int) -> str:
        """The numbers of the ops over their columns, or of as many as have room."""
        text, columns = "", self._scale.parts[index]
        width = self._scale.width(columns.start, columns.stop)
        for column in columns:
            number, at = chart.numbers[column], self._scale.width(columns.start, column)
            if number is not None and (not text or len(text) < at) and at + len(str(number)) <= width:
                text = text.ljust(at) + str(number) + ("" if self._scale.least > 1 else "  ")
        return text.rstrip()

    def _line(self, line: Text, bars: Sequence[Bar], index: int) -> Text:
        """Behind a name the bars, and dots where there are none."""
        columns = self._scale.parts[index]
        # What runs in the background lies beneath.
        painted = {c: bar for beneath in (True, False) for bar in bars if (bar.mark is Mark.BESIDE) is beneath
                   for c in range(bar.begin, bar.end)}  # fmt: skip
        here, gap = columns.start, int(self._scale.least > 1)
        for _, group in groupby(sorted(painted), key=lambda c: (painted[c].number, painted[c].mark)):
            run = list(group)
            for begin, end in _stretches(run):
                line.append(self._between(here, begin, index), style="not bold dim")
                bar = painted[begin]
                line.append(_filled(bar.mark, self._scale.width(begin, end), gap), style=f"not bold {_style(bar)}")
                here = end
        line.append(self._between(here, columns.stop, index), style="not bold dim")
        return line

    def _between(self, begin: int, end: int, index: int) -> str:
        first = self._scale.offsets[self._scale.parts[index].start]
        return self._dots[index][self._scale.offsets[begin] - first : self._scale.offsets[end] - first]


def _stretches(columns: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The pairs of the first and the one past the last of columns that follow each other."""
    begin = columns[0]
    for before, after in pairwise(columns):
        if after != before + 1:
            yield begin, before + 1
            begin = after
    yield begin, columns[-1] + 1


def _filled(mark: Mark, width: int, gap: int) -> str:
    count = 1 if mark is Mark.TALKS and width <= 3 else width - gap
    return (mark.value * count).ljust(width)


def _style(bar: Bar) -> str:
    if bar.mark is Mark.WAITS:
        return "red"
    return "bold yellow" if bar.mark is Mark.TALKS else role_style(bar.role)
