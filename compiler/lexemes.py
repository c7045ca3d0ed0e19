"""The words of a text, right or wrong: what recovery from a syntax error reads where the parser cannot."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rldsl.diagnostics import Span

# Every character but a blank belongs to one of these; each alternative is linear in what it reads.
_LEXEME = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<open_string>"[^\n]*)
    | (?P<quoted>'[^'\n]*')
    | (?P<number>[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)?)
    | (?P<name>\w+)
    | (?P<mark>\.\.|->|=>|==|!=|<=|>=|:=|<-|//|/\*|&&|\|\||\*\*|[^ \t\r\n])
    """,
    re.VERBOSE,
)
BODY = ("param", "model", "input", "node", "metric", "output", "loop", "validate")
TOP = ("use", "import", "algorithm", "deploy")
STATEMENTS = (*TOP, *BODY, "cluster")
BLOCKS = ("algorithm", "deploy", "loop", "validate")

_AFTER_NAME = {
    "param": (":",),
    "model": (":",),
    "input": (":", ","),
    "node": ("=", ":"),
    "metric": ("=",),
    "output": ("=",),
    "loop": ("max",),
    "validate": ("every",),
    "algorithm": ("{",),
}
_CONNECT = frozenset(
    ("with", "when", "after", "and", "or", "not", "compute", "carry", "collect", "where", "until", "on")
)
_GO_ON = _CONNECT | {"in", "every", "max", "copy", "shared", "frozen", "true", "false", "none"}
_END = frozenset((")", "]", "}", "?"))


class Lexeme(NamedTuple):
    """`first`: nothing but blanks stands before it on its line."""

    kind: str
    text: str
    start: int
    first: bool

    @property
    def end(self) -> int:
        """The place after it."""
        return self.start + len(self.text)


NOTHING = Lexeme("end", "", 0, True)


def scan(text: str) -> Iterator[Lexeme]:
    """Everything in `text` but blanks, in order; comments too, without what blanks they end in."""
    last = -1
    for match in _LEXEME.finditer(text):
        first = last < 0 or text.find("\n", last, match.start()) >= 0
        kind, said = match.lastgroup or "", match.group()
        yield Lexeme(kind, said.rstrip() if kind == "comment" else said, match.start(), first)
        last = match.end()


@dataclass(frozen=True)
class Source:
    """A text, its places and its words; each found once, however often it is asked for."""

    text: str
    file: str

    @cached_property
    def _lines(self) -> list[int]:
        return [0, *(m.end() for m in re.finditer("\n", self.text))]

    @cached_property
    def words(self) -> list[Lexeme]:
        """Everything but blanks and comments, in order."""
        return [word for word in scan(self.text) if word.kind != "comment"]

    @cached_property
    def _starts(self) -> list[int]:
        return [w.start for w in self.words]

    def line(self, place: int) -> int:
        """The line of a place, from 1."""
        return bisect_right(self._lines, place)

    def line_start(self, place: int) -> int:
        """Where the line of a place begins."""
        return self._lines[self.line(place) - 1]

    def column(self, place: int) -> int:
        """The column of a place, from 1."""
        return place - self.line_start(place) + 1

    def span(self, start: int, end: int) -> Span:
        """A stretch of the text."""
        return Span(self.file, self.line(start), self.column(start), self.line(end), self.column(end))

    def index(self, place: int) -> int:
        """The index of the word at `place`, or of the next one behind it."""
        at = bisect_right(self._starts, place) - 1
        return at if at >= 0 and place < self.words[at].end else at + 1

    def word(self, index: int) -> Lexeme:
        """The word at `index`; an empty one behind the end."""
        return self.words[index] if index < len(self.words) else NOTHING

    def is_statement(self, index: int) -> bool:
        """Whether what stands here reads as the beginning of a known statement."""
        word, name, mark = (self.word(index + i) for i in range(3))
        if word.text not in STATEMENTS:
            return False
        if word.text in ("use", "import"):
            return name.kind == "string" or (word.first and name.kind == "name" and not name.first)
        if word.text == "deploy":
            return name.text == "{"
        if word.text == "cluster":
            return name.kind == "number"
        return name.kind == "name" and (mark.text in _AFTER_NAME[word.text] or (word.first and not name.first))

    def statement(self, index: int) -> tuple[int, bool]:
        """Where the faulty statement at word `index` ends (an index), and whether the `{` of its block is what ends it.

        Brackets are trusted only up to a line that begins a known statement: one of them may be what is wrong.
        """
        head, depth, braces = self.word(index).text, 0, 0
        has_block = head in BLOCKS or head not in STATEMENTS
        for at in range(index, len(self.words)):
            text = self.words[at].text
            if at > index and self._ends_before(at, depth, braces):
                return at, False
            if text == "{" and has_block and not depth and self.word(at - 1).text != "in":
                return at + 1, True
            depth = max(depth + (text in "([") - (text in ")]"), 0)
            braces = max(braces + (text == "{") - (text == "}"), 0)
        return len(self.words), False

    def _ends_before(self, at: int, depth: int, braces: int) -> bool:
        word = self.words[at]
        if word.text == "}" and not braces:
            return True
        if self.is_statement(at):
            return True
        begins = word.first and word.kind == "name" and word.text not in _GO_ON
        return begins and not depth and not braces and not self._goes_on(self.words[at - 1])

    def _goes_on(self, last: Lexeme) -> bool:
        """Whether a statement cannot end with `last`."""
        return last.text in _CONNECT or (last.kind == "mark" and last.text not in _END)
