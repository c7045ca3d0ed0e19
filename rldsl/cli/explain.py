"""`rldsl explain CODE`: the page of an error code. `rldsl explain FILE [NAME]`: why a plan is as it is."""

from __future__ import annotations

import argparse
import json
import re
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rldsl.cli.entry import UsageError
from rldsl.cli.options import add_compile_options
from rldsl.cli.output import console
from rldsl.diagnostics import did_you_mean

if TYPE_CHECKING:
    from rldsl.render.explain import Explainer

_NUMBER = re.compile(r"(?:RL)?(\d{1,4})", re.IGNORECASE)
_FILES = (".json", ".rl", ".py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The code or the file; all codes are listed without one."""
    parser.add_argument(
        "what", nargs="?", metavar="CODE|FILE", help="an error code such as RL0201, a plan.json, or an algorithm"
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a node, field, model, metric, output, parameter, block, or the id of an op; without it, all that was "
        "decided",
    )
    add_compile_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Print what was asked for, drawn on a terminal and as it is elsewhere."""
    if args.what is None:
        for code in codes():
            print(f"{code}  {title(code)}")
    elif Path(args.what).suffix in _FILES:
        _explain_file(args)
    elif args.name is not None:
        raise UsageError(f"rldsl explain: `{args.what}` is neither a plan nor an algorithm; nothing in it has a name")
    else:
        _explain_code(args)
    return 0


def _explain_code(args: argparse.Namespace) -> None:
    text = page(normal(args.what))
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    markdown = import_module("rich.markdown")  # a tenth of a second; only a terminal needs it

    console(no_color=args.no_color).print(markdown.Markdown(text, code_theme="ansi_dark"))


def _explain_file(args: argparse.Namespace) -> None:
    explainer = _explainer(args)
    pages = (explainer.summary(),) if args.name is None else explainer.pages(args.name)
    if not pages:
        hint = did_you_mean(args.name, explainer.names())
        known = f"`rldsl show {args.what}` shows what there is"
        raise UsageError(f"rldsl explain: {args.what} has nothing called `{args.name}`; {hint or known}")
    if args.json:
        as_data = import_module("rldsl.render.pages").as_data
        print(json.dumps([as_data(p) for p in pages], indent=2, ensure_ascii=False))
        return
    view, terminal = import_module("rldsl.render.pages").PageView, console(no_color=args.no_color)
    for number, each in enumerate(pages):
        terminal.print(*([""] if number else []), view(each), sep="\n")


def _explainer(args: argparse.Namespace) -> Explainer:
    """Imported here, so that the page of a code needs no plan."""
    plan, origin = import_module("rldsl.cli.origins").with_origin(Path(args.what), args)
    return cast("Explainer", import_module("rldsl.render.explain").Explainer(plan, origin))


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
