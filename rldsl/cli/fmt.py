"""`rldsl fmt FILE...`: `.rl` files in canonical form, comments kept."""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import dataclass
from pathlib import Path

from rldsl.cli.output import show_diagnostics
from rldsl.compiler.format import format_text
from rldsl.compiler.frontend import read_source
from rldsl.compiler.plan_io import write_text
from rldsl.diagnostics import Diagnostic, DiagnosticError, fail

_STDIN = "-"


@dataclass(frozen=True)
class _Formatted:
    name: str
    before: str
    after: str

    @property
    def changed(self) -> bool:
        """Whether the file is not in canonical form."""
        return self.before != self.after


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, and what to do instead of rewriting them."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".rl files; - reads standard input, writes standard output"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not in canonical form")
    parser.add_argument("--diff", action="store_true", help="write nothing; print what would change")


def execute(args: argparse.Namespace) -> int:
    """Format each file that can be read; 1 if one cannot, or with --check if one would change."""
    problems: list[Diagnostic] = []
    changed = False
    for name in dict.fromkeys(args.files):
        try:
            formatted = _format(name)
            changed |= formatted.changed
            _deliver(formatted, check=args.check, diff=args.diff)
        except DiagnosticError as error:
            problems += error.diagnostics
    show_diagnostics(problems, as_json=args.json, no_color=args.no_color)
    return int(bool(problems) or (args.check and changed))


def _format(name: str) -> _Formatted:
    if name == _STDIN:
        text = sys.stdin.read()
        return _Formatted(name, text, format_text(text, "<stdin>"))
    if Path(name).suffix == ".py":
        fail("RL0103", f"`{name}` is Python: fmt is for .rl files", expected=".rl", fix=f"run `ruff format {name}`")
    text = read_source(Path(name))
    return _Formatted(name, text, format_text(text, name))


def _deliver(formatted: _Formatted, *, check: bool, diff: bool) -> None:
    name = formatted.name
    if diff:
        sys.stdout.writelines(_diff(formatted))
    if check and formatted.changed:
        # Behind a diff the names would be taken for a part of it.
        print(f"{name}: would change", file=sys.stderr if diff else sys.stdout)
    if check or diff:
        return
    if name == _STDIN:
        sys.stdout.write(formatted.after)
    elif formatted.changed:
        _rewrite(Path(name).resolve(), formatted.after)
        print(f"{name}: formatted")


def _diff(formatted: _Formatted) -> list[str]:
    before, after = (text.splitlines(keepends=True) for text in (formatted.before, formatted.after))
    lines = difflib.unified_diff(before, after, f"{formatted.name} (as it is)", f"{formatted.name} (formatted)")
    return [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]


def _rewrite(path: Path, text: str) -> None:
    """Replace a file, which keeps its permissions and its kind of line ends."""
    if b"\r\n" in path.read_bytes():
        text = text.replace("\n", "\r\n")
    write_text(path, text, path.stat().st_mode & 0o7777)
