"""`rldsl lsp`: the language server; an editor starts it."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from rldsl.backends.engines import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--stdio`, which some editors always say; there is no other way."""
    parser.add_argument("--stdio", action="store_true", help="speak on standard input and output, as it does anyway")


def execute(args: argparse.Namespace) -> int:
    """Serve until the editor ends the session. RL0601 where pygls is not installed."""
    require("pygls", extra="lsp")
    if sys.stdin.isatty():
        print("rldsl lsp: waiting for an editor to speak on standard input; Ctrl-C ends it", file=sys.stderr)
    import_module("rldsl.lsp.server").serve()
    return 0
