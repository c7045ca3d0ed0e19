"""Changes between two plans, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.render.changes import Change, Kind
from rldsl.render.style import quoted

_MARKS = {
    Kind.ADDED: ("+", "green"),
    Kind.REMOVED: ("-", "red"),
    Kind.CHANGED: ("~", "yellow"),
    Kind.RENAMED: ("»", "cyan"),
}


class DiffView:
    """The changes by part; one line says so where there are none."""

    def __init__(self, before: str, after: str, found: Sequence[Change]) -> None:
        self._title = f"{before} -> {after}"
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._found:
            yield Text(f"{self._title}: the same in meaning")
            return
        yield Text(self._title, style="bold")
        for part, each in groupby(self._found, key=lambda c: c.part):
            yield Text(f"\n{part}", style="bold")
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(ratio=1)
            for _, same in groupby(each, key=lambda c: (c.kind, c.name)):
                for index, change in enumerate(same):
                    table.add_row(_head(change) if index == 0 else "", _body(change))
            yield table


def _head(change: Change) -> Text:
    mark, style = _MARKS[change.kind]
    return Text(f"  {mark} {change.name}", style=style)


def _body(change: Change) -> Text:
    if change.kind is Kind.CHANGED:
        text = f"{change.what}: " if change.what else ""
        text += f"{_shown(change.before)} -> {_shown(change.after)}"
    else:
        text = change.before or change.after or ""
        text = f"is called {text} now" if change.kind is Kind.RENAMED else text
    return quoted(text + (f"; {change.why}" if change.why else ""))


def _shown(text: str | None) -> str:
    return "none" if text in (None, "") else str(text)
