"""An algorithm or a plan, whichever the user named."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from rldsl.cli.options import given, is_plan
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan, source_dir
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import DiagnosticError, fail


def load(path: Path, args: argparse.Namespace) -> tuple[Plan, Path]:
    """The plan, and the folder its user files are relative to. Compiles where `path` is an algorithm."""
    if not is_plan(path):
        # The compiler takes a third of a second to import, which a plan does not need.
        compiled = import_module("rldsl.cli.compiled").compile_source(path, args)
        return compiled.plan, compiled.source_dir
    if late := ", ".join(given(args)):
        fix = f"give {'it' if len(given(args)) == 1 else 'them'} to `rldsl compile`"
        fail("RL0509", f"`{path}` is compiled already: {late} would change it", fix=fix)
    plan = read_plan(path)
    problems = verify_plan(plan)  # it may come from another tool
    if problems:
        raise DiagnosticError(problems)
    return plan, source_dir(plan, path)
