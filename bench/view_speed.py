"""What the views of large plans cost: their size, and processor time, per node of random graphs of two sizes.

    python bench/view_speed.py [--small 1000] [--large 10000]

The ratio is that of the cost per node; 1 is linear. A terminal's schedule has a row a node and a column an op, cut into
parts as wide as the terminal: its time is that of as many rows as there are nodes, for each part.
"""

from __future__ import annotations

import argparse
import gc
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from bench.random_graph import RandomGraph
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.render.changes import Side, changes
from rldsl.render.explain import Explainer
from rldsl.render.export import dot, mermaid
from rldsl.render.flows import flows_of
from rldsl.render.graph import GraphView
from rldsl.render.html import page_of
from rldsl.render.moves import FlowView
from rldsl.render.program import ProgramView
from rldsl.render.schedule import charts_of
from rldsl.render.timeline import TimelineView


def drawn(view: RenderableType) -> str:
    """On a terminal of 120 columns."""
    console = Console(width=120, file=io.StringIO(), no_color=True)
    with console.capture() as got:
        console.print(view)
    return got.get()


VIEWS: dict[str, Callable[[Plan], str]] = {
    "graph": lambda plan: drawn(GraphView(plan)),
    "flows": lambda plan: drawn(FlowView(plan, flows_of(plan))),
    "schedule": lambda plan: drawn(TimelineView(charts_of(plan))),
    "program": lambda plan: drawn(ProgramView(plan, plan.programs[0])),
    "mermaid": mermaid,
    "dot": dot,
    "html": page_of,
    "explain": lambda plan: str(Explainer(plan).pages(next(iter(plan.depths)))),
    "diff": lambda plan: str(changes(Side(plan), Side(plan))),
}


def costs(count: int, folder: Path) -> tuple[int, dict[str, tuple[float, int]]]:
    """How many nodes the graph has, and each view's seconds and characters."""
    file = folder / f"random{count}.rl"
    file.write_text(RandomGraph(count).text)
    plan = compile_file(file, Options(world_size=4, layouts=("actor.generate : hf(dp = 2)",))).plan
    found = {}
    for name, view in VIEWS.items():
        gc.collect()
        begin = time.process_time()
        size = len(view(plan))
        found[name] = time.process_time() - begin, size
    return len(plan.depths), found


def run(small: int, large: int) -> None:
    """Print a line for each view."""
    with tempfile.TemporaryDirectory() as folder:
        (few, small_costs), (many, large_costs) = (costs(n, Path(folder)) for n in (small, large))
    for name in VIEWS:
        (a, size_a), (b, size_b) = small_costs[name], large_costs[name]
        times, sizes = (b / many) / (a / few), (size_b / many) / (size_a / few)
        print(
            f"view_speed {name} nodes={few},{many} cpu_s={a:.2f},{b:.2f} time_ratio={times:.2f} "
            f"kB={size_a // 1000},{size_b // 1000} size_ratio={sizes:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10000)
    args = parser.parse_args()
    run(args.small, args.large)
