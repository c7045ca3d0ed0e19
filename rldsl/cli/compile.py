"""`rldsl compile FILE --emit plan.json`: the plan."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rldsl.cli.compiled import compile_source, known_pass
from rldsl.cli.entry import UsageError
from rldsl.cli.options import add_compile_options
from rldsl.compiler.ir import Module
from rldsl.compiler.plan import Plan, plan_hash, to_builtins
from rldsl.compiler.plan_io import dumps, write_plan
from rldsl.compiler.printer import print_module
from rldsl.diagnostics import fail
from rldsl.render.memory import fit_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, where to write, what to print on the way."""
    parser.add_argument("file", type=Path, help="an algorithm, .rl or .py")
    parser.add_argument("--emit", metavar="PLAN", help="write the plan here; - for standard output")
    add_compile_options(parser)
    parser.add_argument("--print-after", metavar="PASS", help="print the graph as it is after this pass, on stderr")
    parser.add_argument(
        "--time-passes",
        action="store_true",
        help="print the milliseconds of each pass, in order and the slowest first, on stderr",
    )


def execute(args: argparse.Namespace) -> int:
    """Compile, write the plan, say what it is."""
    if args.emit not in (None, "-"):
        check_target(Path(args.emit))
    if args.print_after is not None:
        known_pass(args.print_after, "--print-after")
        if args.print_after in args.disable_pass:
            raise UsageError(
                f"rldsl compile: nothing to print after `{args.print_after}`, which --disable-pass leaves out"
            )
    seen = _Seen(args.print_after)
    observe = seen.observe if args.time_passes or args.print_after else None
    try:
        compiled = compile_source(args.file, args, observe, _plan_dir(args.emit))
    finally:
        if args.time_passes:
            print("\n".join(seen.times()), file=sys.stderr)
    if args.emit == "-":
        sys.stdout.write(dumps(compiled.plan))
    elif args.emit is not None:
        write_plan(compiled.plan, Path(args.emit))
    if args.emit != "-" and not args.json:
        print(summary(compiled.plan, args.emit))
        if fits := fit_words(compiled.plan):
            print(fits)
    return 0


def check_target(path: Path) -> None:
    """RL0101 rather than write a plan over an algorithm or a folder."""
    if path.is_dir() or path.suffix in (".rl", ".py"):
        what = "is a folder" if path.is_dir() else "would be taken for an algorithm"
        fail("RL0101", f"cannot write a plan to `{path}`: it {what}", fix="name a .json file, such as plan.json")


def _plan_dir(emit: str | None) -> Path | None:
    return None if emit in (None, "-") else Path(emit).parent


def summary(plan: Plan, emitted: str | None) -> str:
    """`ppo: 12 ops, 1 program, plan 0123456789ab -> plan.json`."""
    count = len(list(plan.ops()))
    programs = f"{len(plan.programs)} program{'s' if len(plan.programs) > 1 else ''}"
    written = f" -> {emitted}" if emitted else " (not written: no --emit)"
    return f"{plan.algorithm}: {count} ops, {programs}, plan {plan_hash(to_builtins(plan))[:12]}{written}"


class _Seen:
    """What is said of the passes as they run."""

    def __init__(self, print_after: str | None) -> None:
        self._print_after = print_after
        self._seconds: dict[str, float] = {}

    def observe(self, name: str, module: Module, seconds: float) -> None:
        """Keep the time, and print what the pass asked for has made."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if name == self._print_after:
            print(print_module(module), file=sys.stderr)

    def times(self) -> Iterator[str]:
        """The passes as they ran, then the slowest first with its share of all."""
        whole = sum(self._seconds.values()) or 1.0
        yield from (f"{s * 1000:8.2f} ms  {name}" for name, s in self._seconds.items())
        yield f"{whole * 1000:8.2f} ms  all; the slowest first:"
        for name, s in sorted(self._seconds.items(), key=lambda item: -item[1]):
            yield f"{s * 1000:8.2f} ms {s / whole:4.0%}  {name}"
