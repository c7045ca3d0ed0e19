"""`rldsl explain CODE`: the page of an error code."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from importlib.resources import files

from rldsl.cli.entry import UsageError
from rldsl.cli.output import console
from rldsl.diagnostics import did_you_mean

_NUMBER = re.compile(r"(?:RL)?(\d{1,4})", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The code; all are listed without one."""
    parser.add_argument("code", nargs="?", help="such as RL0201; without it, the list of all codes")


def execute(args: argparse.Namespace) -> int:
    """Print the page, drawn on a terminal and as it is elsewhere."""
    if args.code is None:
        for code in codes():
            print(f"{code}  {title(code)}")
        return 0
    text = page(normal(args.code))
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return 0
    markdown = import_module("rich.markdown")  # a tenth of a second; only a terminal needs it

    console(no_color=args.no_color).print(markdown.Markdown(text, code_theme="ansi_dark"))
    return 0


def codes() -> tuple[str, ...]:
    """Every code that has a page, in order."""
    names = (entry.name for entry in files("rldsl").joinpath("errors").iterdir())
    return tuple(sorted(name.removesuffix(".md") for name in names if re.fullmatch(r"RL\d{4}\.md", name)))


def normal(code: str) -> str:
    """`rl201`, `201` and `0201` all mean RL0201."""
    match = _NUMBER.fullmatch(code.strip())
    return f"RL{int(match[1]):04}" if match else code


def page(code: str) -> str:
    """The Markdown of a code's page. UsageError, with the nearest code, when there is none."""
    if code not in codes():
        hint = did_you_mean(code, codes())
        raise UsageError(f"rldsl explain: there is no code {code}; {hint or '`rldsl explain` lists all'}")
    return files("rldsl").joinpath("errors", f"{code}.md").read_text(encoding="utf-8")


def title(code: str) -> str:
    """What the code means, in one line: the page's first line without `# RLnnnn: `."""
    return page(code).partition("\n")[0].partition(": ")[2]
