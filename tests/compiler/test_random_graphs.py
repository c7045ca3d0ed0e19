"""Whatever a graph holds, its text says it; whatever program is right compiles, and to the same plan each time.

`RLDSL_EXAMPLES=10000 pytest tests/compiler/test_random_graphs.py` tries as many of each.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from rldsl.compiler.format import format_text
from rldsl.compiler.ir import Graph
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.compiler.plan_io import dumps, loads
from rldsl.compiler.printer import print_graph
from rldsl.compiler.verify import verify_plan
from tests.compiler.programs import graph_of
from tests.compiler.random_programs import programs
from tests.compiler.strategies import graphs

TRIED = int(os.environ.get("RLDSL_EXAMPLES", "0"))


def tries(usually: int) -> settings:
    # One run of the suite tries the same as the next; a run of thousands tries others.
    return settings(
        max_examples=TRIED or usually,
        deadline=None,
        derandomize=not TRIED,
        phases=(Phase.generate, Phase.shrink),
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@tries(200)
@given(graphs())
def test_text_says_all(graph: Graph) -> None:
    text = print_graph(graph)
    again = graph_of(text)
    assert again == graph
    assert print_graph(again) == text


@tries(150)
@given(graphs())
def test_canonical_text_means_the_same(graph: Graph) -> None:
    text = format_text(print_graph(graph), "random.rl")
    assert graph_of(text) == graph
    assert format_text(text, "random.rl") == text


@tries(150)
@given(programs())
def test_right_programs(text: str) -> None:
    graph = graph_of(text)
    assert graph_of(print_graph(graph)) == graph
    assert graph_of(format_text(text, "random.rl")) == graph
    plan = compile_graph(graph, Options(), source_dir=Path()).plan
    assert verify_plan(plan) == []
    said = dumps(plan)
    assert loads(said, "plan.json") == plan
    assert dumps(compile_graph(graph_of(text), Options(), source_dir=Path()).plan) == said
