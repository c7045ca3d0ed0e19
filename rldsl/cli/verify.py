"""`rldsl verify plan.json`: the proof that it runs, or everything that is wrong with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from rldsl.cli.output import show_diagnostics
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan, source_dir
from rldsl.compiler.signature import Signature, functions_in, parse_user_file, user_signature
from rldsl.compiler.verify import PROVED, verify_plan
from rldsl.compiler.verify.needs import check_needs
from rldsl.diagnostics import DiagnosticError, Diagnostics, fail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The plan."""
    parser.add_argument("file", type=Path, metavar="PLAN", help="a plan.json, whoever wrote it")


def execute(args: argparse.Namespace) -> int:
    """Print the verdict on stdout; 1 when anything is wrong with the plan."""
    try:
        if args.file.suffix in (".rl", ".py"):
            fix = f"`rldsl compile {args.file} --emit plan.json` makes its plan, and proves it"
            fail("RL0501", f"`{args.file}` is an algorithm and no plan", fix=fix)
        plan = read_plan(args.file)
        problems = tuple(verify_plan(plan, known_signatures(plan, source_dir(plan, args.file))))
        # What is no sound plan has no arithmetic either.
        needs = check_needs(plan) if plan.memory is not None and not problems else None
        problems += tuple(needs or ())
    except DiagnosticError as error:  # it is no plan, or another one than it says
        problems = error.diagnostics
    if problems:
        show_diagnostics(problems, as_json=args.json, no_color=args.no_color, stderr=False)
        return 1
    _approve(args, plan, counted=needs is not None)
    return 0


_COUNTED = "what each op needs by its models' configurations"


def _approve(args: argparse.Namespace, plan: Plan, *, counted: bool) -> None:
    """Say what was proved; `counted`: what ops need of memory, too."""
    ops, programs = len(list(plan.ops())), len(plan.programs)
    proved = (*PROVED, *([_COUNTED] if counted else []))
    if args.json:
        verdict = {"plan": str(args.file), "verified": True, "ops": ops, "programs": programs, "proved": proved}
        print(json.dumps(verdict))
        return
    size = f"{ops} op{'s' * (ops != 1)}, {programs} program{'s' * (programs != 1)}"
    print(f"{args.file}: verified ({size}; proved: {', '.join(proved)})")
    if plan.memory is not None and not counted:
        print("not counted again: what each op needs, as the models' sizes are not at hand")


def known_signatures(plan: Plan, folder: Path) -> Mapping[str, Signature]:
    """Signatures of the user's functions whose files lie in `folder` as they were when the plan was compiled."""
    found: dict[str, Signature] = {}
    wanted = {f.name: f for f in plan.functions if f.file is not None}
    for file in sorted({f.file for f in wanted.values() if f.file is not None}):
        try:
            tree, digest = parse_user_file(folder / file, file, None)
        except (DiagnosticError, ValueError):  # the run will say so; a plan can be judged without its source
            continue
        for function in functions_in(tree):
            spec = wanted.get(function.name)
            if spec is None or spec.file != file or spec.sha256 != digest:
                continue
            signature = user_signature(function, path=folder / file, file=file, sha256=digest, found=Diagnostics())
            if signature is not None:
                found[function.name] = signature
    return found
