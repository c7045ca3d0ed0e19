"""Diagnostics as a compiler prints them: message, place, the source line with carets, what to do about it."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.diagnostics import Diagnostic, Label, Severity, Span
from rldsl.render.style import quoted

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow"}
_FRAME = "blue"
_TAB = "    "


@dataclass(frozen=True, slots=True)
class _Mark:
    """One underline: the place, its character, its colour, the words after it."""

    span: Span
    char: str
    style: str
    message: str = ""


class DiagnosticView:
    """One diagnostic with its source lines, read when drawn; if the file is gone only the place is shown."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self._diagnostic = diagnostic
        marks = _marks(diagnostic)
        self._gutter = max((len(str(m.span.line)) for m in marks), default=1)
        self._marks = marks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._title()
        shown = False
        for file, marks in groupby(self._marks, key=lambda m: m.span.file):
            yield from self._file(file, list(marks), options.max_width, first=not shown)
            shown = True
        yield from self._footer()

    def _title(self) -> Text:
        d = self._diagnostic
        return Text.assemble(
            (f"{d.severity}[{d.code}]", _STYLES[d.severity]), (": ", "bold"), quoted(d.message, "bold")
        )

    def _file(self, file: str, marks: Sequence[_Mark], width: int, *, first: bool) -> Iterator[Text]:
        at = marks[0].span
        arrow = " " * self._gutter + ("--> " if first else "::: ")
        yield Text.assemble((arrow, _FRAME), f"{shown_path(file)}:{at.line}:{at.column}")
        source = _lines_of(file)
        last: int | None = None
        for line, here in groupby(sorted(marks, key=lambda m: m.span.line), key=lambda m: m.span.line):
            if line > len(source):  # gone, or changed since: a wrong line would mislead
                continue
            if last is None:
                yield self._bar()
            elif line > last + 1:
                yield Text("...", style=_FRAME)
            yield from self._snippet(source[line - 1], line, list(here), width)
            last = line

    def _snippet(self, text: str, line: int, marks: Sequence[_Mark], width: int) -> Iterator[Text]:
        room = max(width - self._gutter - 3, 20)
        code = text.rstrip().replace("\t", _TAB)
        begins = [_column(text, m.span.column) for m in marks]
        ends = [_end(text, m.span) for m in marks]
        cut = _window(cell_len(code), begins[0], ends[0], room)
        bar = Text(f"{line:>{self._gutter}} | ", style=_FRAME)
        yield _one_line(Text.assemble(bar, _crop(code, cut, room)))
        for mark, begin, end in zip(marks, begins, ends, strict=True):
            if mark.span == Span.whole_line(mark.span.file, line) and not mark.message:
                continue  # no column known: the line alone says it
            start = max(begin - cut, 0)
            size = max(min(end - cut, room) - start, 1)
            yield from self._underline(mark, start, size, room)

    def _underline(self, mark: _Mark, start: int, size: int, room: int) -> Iterator[Text]:
        carets = " " * start + mark.char * size
        if mark.message and len(carets) + 1 + cell_len(mark.message) > room:
            yield _one_line(Text.assemble(self._bar(" "), (carets, mark.style)))
            for line in wrap(mark.message, room):
                yield Text.assemble(self._bar(" "), (line, mark.style))
            return
        yield _one_line(Text.assemble(self._bar(" "), (f"{carets} {mark.message}".rstrip(), mark.style)))

    def _bar(self, after: str = "") -> Text:
        return Text(" " * self._gutter + " |" + after, style=_FRAME)

    def _footer(self) -> Iterator[Table | Text]:
        d = self._diagnostic
        rows = [
            ("expected", d.expected),
            ("found", d.found),
            *(("note", note) for note in d.notes),
            ("help", d.fix),
        ]
        kept = [(name, text) for name, text in rows if text]
        if not kept:
            return
        if self._marks:
            yield self._bar()
        # Two columns, so that a long note wraps under itself.
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for name, text in kept:
            head = Text.assemble(
                (" " * self._gutter + " = ", _FRAME), (f"{name}:", "bold green" if name == "help" else "bold")
            )
            table.add_row(head, quoted(text))
        yield table


class DiagnosticList:
    """Every diagnostic, in the order given, and a last line that counts them."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self._diagnostics = tuple(diagnostics)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for diagnostic in self._diagnostics:
            yield DiagnosticView(diagnostic)
            yield Text()
        if self._diagnostics:
            yield quoted(self.summary())

    def summary(self) -> str:
        """`2 errors, 1 warning; ...` and where to read more."""
        counts = [(s, sum(d.severity is s for d in self._diagnostics)) for s in Severity]
        said = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts if n)
        worst = min(self._diagnostics, key=lambda d: list(Severity).index(d.severity))
        return f"{said}; `rldsl explain {worst.code}` says more"


def as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic as plain JSON values; every key is always there, null when unknown."""
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
        "span": _span_json(diagnostic.span),
        "expected": diagnostic.expected,
        "found": diagnostic.found,
        "notes": list(diagnostic.notes),
        "labels": [{"span": _span_json(label.span), "message": label.message} for label in diagnostic.labels],
        "fix": diagnostic.fix,
    }


def shown_path(file: str) -> str:
    """`file` relative to the working directory when it lies under it: what a user can click and type."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return file


def _span_json(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


def _marks(diagnostic: Diagnostic) -> list[_Mark]:
    """The primary place, then the labels; those of the primary's file before those of others."""
    labels = [_label_mark(label) for label in diagnostic.labels]
    if diagnostic.span is None:
        return sorted(labels, key=lambda m: m.span.file)
    home = diagnostic.span.file
    primary = _Mark(diagnostic.span, "^", _STYLES[diagnostic.severity])
    return [primary, *sorted(labels, key=lambda m: (m.span.file != home, m.span.file))]


def _label_mark(label: Label) -> _Mark:
    return _Mark(label.span, "-", _FRAME, label.message)


def _lines_of(file: str) -> list[str]:
    """The file's lines, as parsers count them; none when it cannot be read: a diagnostic must show even so."""
    try:
        # Not `splitlines`, for which a form feed or a Unicode separator ends a line, too.
        return Path(file).read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    except OSError:
        # A notebook's cell is no file, but Python keeps its text.
        return [line.removesuffix("\n") for line in linecache.getlines(file)]


def _column(text: str, column: int) -> int:
    """Terminal cells before `column` (counted from 1): tabs are four wide, some letters two."""
    return cell_len(text[: column - 1].replace("\t", _TAB))


def _end(text: str, span: Span) -> int:
    """Cells before the end of `span` on its first line; a span that goes on marks the line to its end."""
    if span.end_line > span.line:
        return cell_len(text.rstrip().replace("\t", _TAB))
    return _column(text, max(span.end_column, span.column + 1))


def _window(length: int, begin: int, end: int, room: int) -> int:
    """The first cell shown of a line `length` wide, so that begin..end fits into `room`."""
    if length <= room or end <= room - 1:
        return 0
    return max(0, min(begin - room // 3, length - room))


def _crop(code: str, start: int, room: int) -> str:
    """`room` cells of `code` from `start`, with an ellipsis where it goes on."""
    if start == 0 and cell_len(code) <= room:
        return code
    part = code[start : start + room]
    if start:
        part = "…" + part[1:]
    return part[:-1] + "…" if start + room < len(code) else part


def _one_line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
