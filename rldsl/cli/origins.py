"""A plan together with what its source said."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

from rldsl.cli.options import is_plan
from rldsl.cli.sources import load
from rldsl.compiler.cost.op_terms import plan_terms
from rldsl.compiler.cost.weight_bytes import weight_bytes
from rldsl.compiler.ir import Graph
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError
from rldsl.render.origin import Origin


def with_origin(path: Path, args: argparse.Namespace) -> tuple[Plan, Origin]:
    """The plan in `path`, or compiled from it, and its source as far as that is at hand and unchanged."""
    plan, folder = load(path, args)
    source = path if not is_plan(path) else Path(os.path.relpath(folder / Path(plan.source.path).name))
    graph = _graph(source, plan, trusted=not is_plan(path))
    return plan, Origin(plan, graph, weight_bytes(plan), plan_terms(plan))


def _graph(source: Path, plan: Plan, *, trusted: bool) -> Graph | None:
    """A Python algorithm is only run again if the user named it."""
    if source.suffix not in (".rl", ".py") or (source.suffix == ".py" and not trusted) or not source.is_file():
        return None
    from rldsl.compiler.frontend import load_graph, read_source

    text = read_source(source)
    if hashlib.sha256(text.encode()).hexdigest() != plan.source.sha256:
        return None
    try:
        return load_graph(source, text)
    except DiagnosticError:  # a file that it imports has gone or changed
        return None
