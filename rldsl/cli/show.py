"""`rldsl show FILE|plan.json`: the graph, then what each rank does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from rldsl.cli.entry import UsageError
from rldsl.cli.options import add_compile_options, natural
from rldsl.cli.output import console
from rldsl.cli.sources import load
from rldsl.compiler.plan import Plan, Program, to_builtins
from rldsl.render.export import dot, mermaid
from rldsl.render.graph import GraphView
from rldsl.render.program import DroppedView, PlanHeader, ProgramView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, of which rank, in which form."""
    parser.add_argument("file", type=Path, help="an algorithm, .rl or .py, or a plan.json")
    parser.add_argument("--rank", type=natural, metavar="R", help="only the program of this rank")
    parser.add_argument("--format", choices=("text", "mermaid", "dot", "json"), default="text")
    parser.add_argument("--unrolled", action="store_true", help="show every iteration of a loop in the graph")
    add_compile_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the plan in the format asked for."""
    plan, _ = load(args.file, args)
    programs = plan.programs if args.rank is None else (_program(plan, args.rank),)
    if args.format == "json":
        shown = (
            to_builtins(plan) if args.rank is None else to_builtins(plan)["programs"][plan.programs.index(programs[0])]
        )
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    elif args.format == "text":
        terminal = console(no_color=args.no_color)
        for view in _views(plan, programs, whole=args.rank is None, unrolled=args.unrolled):
            terminal.print(view)
    else:
        write = mermaid if args.format == "mermaid" else dot
        sys.stdout.write(write(plan, unrolled=args.unrolled))
    return 0


def _views(plan: Plan, programs: Sequence[Program], *, whole: bool, unrolled: bool) -> list[RenderableType]:
    views: list[RenderableType] = [PlanHeader(plan), Text()]
    if whole:
        views += [GraphView(plan, unrolled=unrolled), Text()]
    views += [ProgramView(plan, program) for program in programs]
    return [*views, DroppedView(plan)] if whole else views


def _program(plan: Plan, rank: int) -> Program:
    if plan.world_size is not None and rank >= plan.world_size:
        raise UsageError(f"rldsl show: there is no rank {rank}: the plan is for ranks 0 to {plan.world_size - 1}")
    return plan.program(rank)
