"""An explanation: a title, what it is about, and headed lines. The same one is drawn in a terminal and in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.render.style import quoted, role_style


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under a short heading; what stands between backticks is emphasised."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything about one name: what it is (`node, ACTOR, MODEL_TRAIN`), where it stands, sections."""

    title: str
    kind: str
    place: str
    sections: tuple[Section, ...]
    role: str = ""


def as_data(page: Page) -> dict[str, object]:
    """The page as JSON has it."""
    sections = [{"heading": s.heading, "lines": list(s.lines)} for s in page.sections]
    return {"title": page.title, "kind": page.kind, "place": page.place, "sections": sections, "role": page.role}


def page(title: str, kind: str, place: str, sections: Iterable[tuple[str, Sequence[str]]], *, role: str = "") -> Page:
    """A page without the sections that have no lines; a line that says the same again is left out."""
    kept = (Section(heading, tuple(dict.fromkeys(lines))) for heading, lines in sections)
    return Page(title, kind, place, tuple(s for s in kept if s.lines), role)


class PageView:
    """A page on the terminal: headings on the left, lines beside them."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._page
        place = f"   {shown.place}" if shown.place else ""
        style = f"bold {role_style(shown.role)}" if shown.role else "bold"
        yield Text.assemble((shown.title, style), f"   {shown.kind}", (place, "dim"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1)
        for section in shown.sections:
            for index, line in enumerate(section.lines):
                table.add_row(section.heading if index == 0 else "", quoted(line))
        yield table
