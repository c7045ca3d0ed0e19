"""Places in a text: as offsets, as the compiler's spans and as an editor's lines and characters."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rldsl.diagnostics import Span

_BREAK = re.compile(r"\r\n|\n|\r")
_UNIT_BYTES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_CODECS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


@dataclass(frozen=True)
class Text:
    """The text of a file. Offsets count code points from 0."""

    path: Path
    text: str

    @cached_property
    def _lines(self) -> list[int]:
        """Where the compiler's lines begin: they end at line feeds only."""
        return [0, *(m.end() for m in re.finditer("\n", self.text))]

    @cached_property
    def _rows(self) -> list[int]:
        """Where an editor's lines begin."""
        return [0, *(m.end() for m in _BREAK.finditer(self.text))]

    def offset(self, line: int, column: int) -> int:
        """The offset of the compiler's line and column, both from 1; the nearest there is."""
        start = self._lines[min(max(line, 1), len(self._lines)) - 1]
        return min(start + max(column - 1, 0), len(self.text))

    def stretch(self, span: Span) -> tuple[int, int]:
        """Start and end of a span; the whole line where a span names no columns."""
        start = self.offset(span.line, span.column)
        end = self.offset(span.end_line, span.end_column)
        if end > start:
            return start, end
        line_end = self.text.find("\n", start)
        return start, len(self.text) if line_end < 0 else line_end

    def position(self, offset: int, encoding: str = "utf-16") -> tuple[int, int]:
        """An editor's line and character, both from 0, counted in the units of `encoding`."""
        row = bisect_right(self._rows, offset) - 1
        before = self.text[self._rows[row] : offset]
        return row, len(before.encode(_CODECS[encoding], "surrogatepass")) // _UNIT_BYTES[encoding]

    def at(self, row: int, character: int, encoding: str = "utf-16") -> int:
        """The offset of an editor's line and character; the nearest there is."""
        if row >= len(self._rows):
            return len(self.text)
        start = self._rows[max(row, 0)]
        end = self._rows[row + 1] if row + 1 < len(self._rows) else len(self.text)
        line = self.text[start:end].rstrip("\r\n")
        units = 0
        for index, char in enumerate(line):
            if units >= character:
                return start + index
            units += len(char.encode(_CODECS[encoding], "surrogatepass")) // _UNIT_BYTES[encoding]
        return start + len(line)


@dataclass(frozen=True)
class Place:
    """A stretch of a text."""

    text: Text
    start: int
    end: int
