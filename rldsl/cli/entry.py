"""Reads the command line, runs the verb, and turns what happens into an exit code.

Exit codes: 0 done, 1 the user's error, 70 a bug of ours, 130 Ctrl-C, 143 told to end (SIGTERM). A verb's module is
imported only when that verb is asked for, so that each starts as fast as it can.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from rldsl.cli.output import show_diagnostics
from rldsl.diagnostics import DiagnosticError, did_you_mean

OK, USER_ERROR, BUG, INTERRUPTED, TERMINATED = 0, 1, 70, 130, 143

VERBS = {
    "check": "say everything that is wrong with an algorithm; write nothing",
    "compile": "compile an algorithm to plan.json",
    "show": "draw an algorithm's graph and the program of each rank",
    "verify": "prove that a plan runs, without running it",
    "run": "train",
    "fmt": "rewrite .rl files in canonical form",
    "new": "begin an algorithm from a shipped one",
    "explain": "say why a plan is as it is, or what an error code means",
    "diff": "say what two plans or algorithms do differently",
    "ls": "list the shipped algorithms, functions, engines and data sources",
    "lsp": "serve an editor: diagnostics, hover, completion, definitions (started by the editor)",
}


class UsageError(Exception):
    """The command line itself is wrong."""


class Verb(Protocol):
    """What the module of a verb offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def execute(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on its own; ours raises, and the caller exits with 1."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` with the usage line."""
        raise UsageError(f"{self.format_usage()}{self.prog}: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name (None: from sys). Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _concluded(arguments)
    if _left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _left_behind() -> bool:
    """Whether a function of the user's still runs in the background.

    When Python ends it stops such a thread by force, perhaps within PyTorch's code, and that aborts the process.
    """
    background = sys.modules.get("rldsl.backends.background")  # not imported: no command but `run` has anything there
    return background is not None and background.busy()


def _concluded(arguments: list[str]) -> int:
    """The exit code of a command, when all is said about what has gone wrong."""
    _tolerate_narrow_encodings()
    as_json, no_color = "--json" in arguments, "--no-color" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, so that a closed pipe shows now and not at exit
    except DiagnosticError as error:
        show_diagnostics(error.diagnostics, as_json=as_json, no_color=no_color)
        return USER_ERROR
    except UsageError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as told:
        terminated = told.args == (signal.SIGTERM,)  # as `run` and its backends raise it
        print("\nterminated" if terminated else "\ninterrupted", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:
        # The reader has what it wanted. stdout must not be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        import_module("rldsl.cli.bug").report(error, arguments)
        return BUG
    return code


def _run(arguments: list[str]) -> int:
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name is None or name not in VERBS or arguments[0] != name:
        return _without_verb(arguments, name)
    verb = cast(Verb, import_module(f"rldsl.cli.{name}"))
    parser = _Parser(prog=f"rldsl {name}", description=f"{VERBS[name][0].upper()}{VERBS[name][1:]}.")
    verb.add_arguments(parser)
    add_output_options(parser)
    try:
        args = parser.parse_intermixed_args(arguments[1:])  # `show plan.json --rank 0 +reward`
    except SystemExit as stop:  # argparse's --help
        return stop.code if isinstance(stop.code, int) else OK
    return verb.execute(args)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options every verb has."""
    parser.add_argument("--json", action="store_true", help="diagnostics as JSON, one object a line")
    parser.add_argument("--no-color", action="store_true", help="no colour; the variable NO_COLOR does the same")


def _without_verb(arguments: list[str], name: str | None) -> int:
    """`rldsl`, `rldsl --help`, `rldsl --version`, or a verb that is none."""
    if "--version" in arguments:
        from importlib.metadata import version  # it takes as long to import as the rest of this module does

        print(f"rldsl {version('rldsl')}")
        return OK
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return OK
    if name in VERBS:
        raise UsageError(f"rldsl: options follow the command: rldsl {name} {arguments[0]}")
    hint = did_you_mean(name or "", VERBS)
    said = f"unknown command `{name}`" if name else f"unknown option `{arguments[0]}`"
    raise UsageError(f"rldsl: {said}{f'; {hint}' if hint else ''}\n{_help()}")


def _help() -> str:
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:<{width}}  {what}" for name, what in VERBS.items()]
    return "\n".join(
        [
            "usage: rldsl COMMAND ...",
            "",
            "A compiler for RL post-training: an algorithm in, one program per rank out.",
            "",
            *lines,
            "",
            "`rldsl COMMAND --help` says more; `rldsl --version` prints the version.",
        ]
    )


def _tolerate_narrow_encodings() -> None:
    """A box drawn on an ASCII terminal becomes question marks, not a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
