"""Whatever a graph holds, its text says it; whatever program is right compiles, and to the same plan each time.

`RLDSL_EXAMPLES=10000 pytest tests/compiler/test_random_graphs.py` tries as many of each.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from rldsl.compiler.format import format_text
from rldsl.compiler.ir import Graph
from rldsl.compiler.ops import MetricOp, OutputOp, TakeOp
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.compiler.plan_io import dumps, loads
from rldsl.compiler.printer import print_graph
from rldsl.compiler.verify import verify_plan
from rldsl.types import NodeType
from tests.compiler.programs import PROGRAM, compiled, graph_of
from tests.compiler.random_programs import programs
from tests.compiler.strategies import graphs
from tests.compiler.test_fuzz import RESAMPLED

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


# What random programs have found.


def test_a_metric_goes_with_its_field_though_its_mask_stays() -> None:
    metric = "  metric kl = mean(ref_logp, response_mask)\n  output rows = score, ref_logp\n  node update"
    text = PROGRAM.replace("  node update", metric)
    assert not [o for o in compiled(text).plan.ops() if isinstance(o, MetricOp)]
    assert [o.fields for o in compiled(text).plan.ops() if isinstance(o, OutputOp)] == [("score",)]
    assert [o.field for o in compiled(text, "kl_coef=0.1").plan.ops() if isinstance(o, MetricOp)] == ["ref_logp"]


def test_a_loop_collects_nothing_for_a_node_that_is_dead() -> None:
    idle = "  node idle = compute has_spread(extra) -> idle_flag\n  node advantage"
    text = RESAMPLED.replace("score where", "score, extra where").replace("  node advantage", idle)
    text = text.replace("    node spread", "    node more = compute sum_scores(score, score) -> extra\n    node spread")
    (take,) = [o for o in compiled(text).plan.ops() if isinstance(o, TakeOp)]
    assert "extra" not in take.outputs and "score" in take.outputs


def test_a_field_bound_by_hand_to_a_parameter_of_its_name() -> None:
    by_hand = PROGRAM.replace("exact_match(completions, answers)", "exact_match(completions, answers = answers)")
    assert graph_of(by_hand) == graph_of(PROGRAM)


def test_a_type_is_stated_without_a_role() -> None:
    text = PROGRAM.replace("node old       =", "node old : MODEL_INFERENCE =")
    node = next(n for n in graph_of(text).nodes if n.id == "old")
    assert (node.role, node.stated_type) == (None, NodeType.MODEL_INFERENCE)
