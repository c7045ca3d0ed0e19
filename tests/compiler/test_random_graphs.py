"""Whatever a graph holds, its text says it; whatever text is right compiles, and to the same plan each time.

`RLDSL_EXAMPLES=10000 pytest tests/compiler/test_random_graphs.py` tries as many of each.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings

from rldsl.compiler.ir import Graph
from rldsl.compiler.printer import print_graph
from tests.compiler.programs import graph_of
from tests.compiler.strategies import graphs

TRIED = int(os.environ.get("RLDSL_EXAMPLES", "0"))


def tries(usually: int) -> settings:
    return settings(max_examples=TRIED or usually, deadline=None, suppress_health_check=list(HealthCheck))


@tries(250)
@given(graphs())
def test_text_says_all(graph: Graph) -> None:
    text = print_graph(graph)
    again = graph_of(text)
    assert again == graph
    assert print_graph(again) == text
