"""`rldsl check FILE`: every error and warning, nothing written."""

from __future__ import annotations

import argparse
from pathlib import Path

from rldsl.cli.compiled import options_of
from rldsl.cli.options import add_compile_options
from rldsl.cli.output import show_diagnostics
from rldsl.compiler.pipeline import check_file
from rldsl.diagnostics import Severity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and the options of compilation."""
    parser.add_argument("file", type=Path, help="an algorithm, .rl or .py")
    add_compile_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the diagnostics on stdout; 1 when any is an error."""
    found = check_file(args.file, options_of(args))
    show_diagnostics(found, as_json=args.json, no_color=args.no_color, stderr=False)
    if any(d.severity is Severity.ERROR for d in found):
        return 1
    if not args.json:
        print(f"{args.file}: no errors")
    return 0
