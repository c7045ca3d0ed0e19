"""`rldsl show FILE|plan.json [SELECTOR ...]`: the graph, what moves, the schedule, then what each rank does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from rldsl.cli.entry import UsageError
from rldsl.cli.options import add_compile_options, memory, natural, positive
from rldsl.cli.output import console
from rldsl.cli.sources import load
from rldsl.compiler.cost.find_facts import NoFacts
from rldsl.compiler.cost.plan_time import Assumed, plan_time
from rldsl.compiler.cost.weight_bytes import weight_bytes
from rldsl.compiler.plan import Plan, Program, to_builtins
from rldsl.diagnostics import did_you_mean
from rldsl.render.export import dot, mermaid
from rldsl.render.flows import Flow, flows_of, near
from rldsl.render.graph import GraphView
from rldsl.render.memory import unplanned
from rldsl.render.memory_view import MemoryView
from rldsl.render.moves import FlowView, flows_json
from rldsl.render.program import DroppedView, PlanHeader, ProgramView
from rldsl.render.rank import RankView, rank_json
from rldsl.render.schedule import charts_of
from rldsl.render.seconds import SecondsView, seconds_json
from rldsl.render.select import SelectorError, names_of, ops_of, selected
from rldsl.render.timeline import TimelineView

FORMATS = ("text", "mermaid", "dot", "json", "html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, of which nodes and rank, in which form."""
    parser.add_argument("file", type=Path, help="an algorithm, .rl or .py, or a plan.json")
    parser.add_argument(
        "selectors",
        nargs="*",
        metavar="NODE",
        help="only these nodes and their ops: `x`, `+x` with all upstream, `x+` with all downstream, `1+x` one step up",
    )
    parser.add_argument("--rank", type=natural, metavar="R", help="only the program of this rank")
    parser.add_argument("--format", choices=FORMATS, default="text", help="html: one page that needs nothing else")
    parser.add_argument("--unrolled", action="store_true", help="show every iteration of a loop in the graph")
    parser.add_argument("--time", action="store_true", help="how long a step is predicted to take on the cluster")
    parser.add_argument(
        "--prompt-tokens", type=positive, default=512, metavar="N", help="with --time: tokens of a prompt; default: 512"
    )
    parser.add_argument(
        "--memory",
        nargs="?",
        const=0,
        type=_size,
        dest="shown_memory",
        metavar="SIZE",
        help="how full a rank is in each op, and of what; with SIZE, such as 6GiB, planned for so much a rank",
    )
    add_compile_options(parser, budget=False)


def execute(args: argparse.Namespace) -> int:
    """Print the plan in the format asked for."""
    args.memory = args.shown_memory or None
    if args.format == "html":
        return _html(args)
    plan, _ = load(args.file, args)
    flows = flows_of(plan, unrolled=args.unrolled, weights=weight_bytes(plan))
    if args.time:
        return _time(plan, args)
    if args.shown_memory is not None:
        return _memory(plan, args)
    programs = plan.programs if args.rank is None else (_program(plan, args.rank),)
    only = _selected(plan, args)
    if args.format == "json":
        print(json.dumps(_json(plan, args, programs, only, near(flows, only)), indent=2, ensure_ascii=False))
    elif args.format == "text":
        terminal = console(no_color=args.no_color)
        for view in _views(plan, programs, args, only, near(flows, only)):
            terminal.print(view)
    else:
        write = mermaid if args.format == "mermaid" else dot
        sys.stdout.write(write(plan, unrolled=args.unrolled, only=only))
    return 0


def _time(plan: Plan, args: argparse.Namespace) -> int:
    for option, given in (("--rank", args.rank is not None), ("a selector", bool(args.selectors))):
        if given:
            raise UsageError(f"rldsl show: --time is about all of the plan; leave out {option}")
    if args.format not in ("text", "json"):
        raise UsageError("rldsl show: --time has the formats text and json")
    found = plan_time(plan, Assumed(prompt_tokens=args.prompt_tokens))
    if isinstance(found, NoFacts):
        raise UsageError(f"rldsl show: how long a step takes is not known: {found.reason}")
    if args.format == "json":
        print(json.dumps(seconds_json(found), indent=2))
    else:
        terminal = console(no_color=args.no_color)
        for view in (PlanHeader(plan), Text(), SecondsView(found)):
            terminal.print(view)
    return 0


def _size(text: str) -> int:
    """Bytes. A file after --memory would be taken for its size."""
    try:
        return memory(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; a file stands before --memory") from None


def _memory(plan: Plan, args: argparse.Namespace) -> int:
    if args.selectors:
        raise UsageError("rldsl show: --memory is about all of the plan; leave out a selector")
    if args.time or args.format not in ("text", "json"):
        raise UsageError("rldsl show: --memory has the formats text and json; the page has it too")
    if plan.memory is None:
        why = unplanned(plan) or "no budget is known: name a cluster, such as `--cluster '8 x h100'`, or a size"
        raise UsageError(f"rldsl show: memory is not planned: {why}")
    programs = plan.programs if args.rank is None else (_program(plan, args.rank),)
    if args.format == "json":
        print(json.dumps(to_builtins(plan)["memory"], indent=2))
    else:
        console(no_color=args.no_color).print(MemoryView(plan, plan.memory, programs))
    return 0


def _html(args: argparse.Namespace) -> int:
    for option, given in (("--rank", args.rank is not None), ("a selector", bool(args.selectors))):
        if given:
            raise UsageError(f"rldsl show: the page shows all of the plan; leave out {option}")
    plan, origin = import_module("rldsl.cli.origins").with_origin(args.file, args)
    sys.stdout.write(import_module("rldsl.render.html").page_of(plan, origin, unrolled=args.unrolled))
    return 0


def _selected(plan: Plan, args: argparse.Namespace) -> frozenset[str] | None:
    if not args.selectors:
        return None
    try:
        return selected(plan, args.selectors, unrolled=args.unrolled)
    except SelectorError as error:
        if not error.name:
            raise UsageError(f"rldsl show: `{error}` selects nothing; write NODE, +NODE, NODE+ or 2+NODE") from None
        names = names_of(plan, unrolled=args.unrolled)
        hint = did_you_mean(error.name, names) or f"the nodes are {', '.join(names)}"
        raise UsageError(f"rldsl show: no node is called `{error.name}`; {hint}") from None


def _json(
    plan: Plan,
    args: argparse.Namespace,
    programs: Sequence[Program],
    only: frozenset[str] | None,
    shown: tuple[Flow, ...],
) -> object:
    """The plan, or of it only the rank's program and the selected nodes' ops; and all edges with their bytes."""
    body = to_builtins(plan)
    flows = {"flows": flows_json(plan, shown)}
    chosen = [body["programs"][plan.programs.index(p)] for p in programs]
    if only is not None:
        ops = ops_of(plan, only, unrolled=args.unrolled)
        chosen = [{**program, "ops": [op for op in program["ops"] if op["id"] in ops]} for program in chosen]
    elif args.rank is None:
        return {**body, **flows}
    rank = {} if args.rank is None else rank_json(plan, args.rank)
    return {**rank, "programs": chosen, **flows}


def _views(
    plan: Plan,
    programs: Sequence[Program],
    args: argparse.Namespace,
    only: frozenset[str] | None,
    shown: tuple[Flow, ...],
) -> list[RenderableType]:
    ops = None if only is None else ops_of(plan, only, unrolled=args.unrolled)
    timeline = TimelineView(charts_of(plan, programs, ops))
    tables = [ProgramView(plan, program, ops) for program in programs]
    if args.rank is not None:
        return [PlanHeader(plan), Text(), RankView(plan, args.rank), Text(), timeline, Text(), *tables]
    graph = GraphView(plan, unrolled=args.unrolled, only=only)
    flows = FlowView(plan, shown)
    below: list[RenderableType] = [Text(), graph, Text(), flows, Text(), timeline, Text(), *tables]
    return below[1:] if only is not None else [PlanHeader(plan), *below, DroppedView(plan)]


def _program(plan: Plan, rank: int) -> Program:
    if plan.world_size is not None and rank >= plan.world_size:
        raise UsageError(f"rldsl show: there is no rank {rank}: the plan is for ranks 0 to {plan.world_size - 1}")
    return plan.program(rank)
