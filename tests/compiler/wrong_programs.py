"""Reads `wrong/*.rl`: programs with mistakes, annotated with the diagnostics that must come out.

Programs are separated by lines `---`. A comment before the first statement names a program. Expected diagnostics are
comments too, which are removed before the program is compiled:

    node reward = compute exact_match(completion, answers) -> score
    #                                 ^^^^^^^^^^ RL0201 did you mean `completions`?
    param group : int = 4.5  #! RL0304

Carets state the columns in the line of code above; `#!` leaves them open, on a line of code or on its own below one.
Behind the code stand pieces, separated by ` ... `, which message, expected, found and fix must hold in this order.
Above the first statement `#! CODE` expects a diagnostic without a place, `#! FILE:LINE CODE` one in another file, and
`#$ --set group=3` states options of `rldsl check`.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rldsl.cli.compiled import options_of
from rldsl.cli.options import add_compile_options
from rldsl.compiler.frontend import load_graph
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics

FOLDER = Path(__file__).parent / "wrong"
_SEPARATOR = "---"
_EXPECTED = re.compile(r"#!(?: (?P<file>[\w./]+):(?P<line>\d+))? (?P<code>RL\d{4})(?: (?P<text>.*))?$")
_CARETS = re.compile(r"#[ ]*(?P<carets>\^+) (?P<code>RL\d{4})(?: (?P<text>.*))?$")


@dataclass(frozen=True)
class Expected:
    """A diagnostic that must come out: `line` 0 has no place; columns None are left open."""

    code: str
    line: int = 0
    columns: tuple[int, int] | None = None
    pieces: tuple[str, ...] = ()
    file: str | None = None

    def matches(self, found: Diagnostic, file: str) -> bool:
        """Whether `found`, in a program read from `file`, is this one."""
        span = found.span
        if span is None:
            place = self.line == 0
        else:
            place = span.line == self.line and Path(span.file).name == Path(self.file or file).name
            place = place and self.columns in (None, (span.column, span.end_column))
        said = " ".join(filter(None, (found.message, found.expected, found.found, found.fix)))
        wanted = ".*".join(map(re.escape, self.pieces))
        return place and found.code == self.code and re.search(wanted, said, re.DOTALL) is not None

    def __str__(self) -> str:
        place = "nowhere" if self.line == 0 else f"{self.file or ''}:{self.line}:{self.columns or '-'}"
        return f"{place} {self.code} {' ... '.join(self.pieces)}"


@dataclass
class Program:
    """One program: its text without annotations, and what must be found in it."""

    file: str
    name: str = ""
    lines: list[str] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def read(self, line: str) -> None:
        """Take one line of the file."""
        stripped = line.strip()
        if stripped.startswith("#$ "):
            self.options += shlex.split(stripped[3:])
        elif match := _CARETS.fullmatch(stripped):
            begin = line.index("^") + 1
            self._expect(match, (begin, begin + len(match["carets"])))
        elif match := _EXPECTED.search(line):
            code = line[: match.start()].rstrip()
            if code:
                self.lines.append(code)
            self._expect(match)
        elif not self.lines and stripped.startswith("#") and not self.name:
            self.name = stripped[1:].strip()
        elif self.lines or stripped:
            self.lines.append(line)

    def _expect(self, match: re.Match[str], columns: tuple[int, int] | None = None) -> None:
        parts = match.groupdict()
        pieces = tuple((parts["text"] or "").split(" ... "))
        line = int(parts.get("line") or 0) or len(self.lines)
        self.expected.append(Expected(parts["code"], line, columns, pieces, parts.get("file")))

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What `rldsl check` finds, were the program a file in `wrong`."""
        path, found = FOLDER / self.file, Diagnostics()
        try:
            graph = load_graph(path, self.text, found)
            return compile_graph(graph, self._compile_options(), source_dir=FOLDER, found=found).warnings
        except DiagnosticError as error:
            return error.diagnostics

    def _compile_options(self) -> Options:
        parser = argparse.ArgumentParser()
        add_compile_options(parser)
        return options_of(parser.parse_args(self.options))


def programs(file: Path) -> Iterator[Program]:
    """The programs of a file, in order."""
    program = Program(file.name)
    for line in [*file.read_text(encoding="utf-8").splitlines(), _SEPARATOR]:
        if line.strip() != _SEPARATOR:
            program.read(line)
            continue
        assert program.name and program.lines, f"{file.name}: a program without a name or text"
        yield program
        program = Program(file.name)


def all_programs() -> list[Program]:
    """Those of all files."""
    return [p for f in sorted(FOLDER.glob("*.rl")) for p in programs(f)]
