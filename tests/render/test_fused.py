"""A forward that does the work of several nodes: each node is shown as one, and where it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rldsl.compiler.ops import InferOp
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.compiler.plan import Plan
from rldsl.render.changes_nodes import node_facts
from rldsl.render.facts import Facts
from rldsl.render.html import page_of
from rldsl.render.nodes import edges_of, node_ids, nodes_of
from rldsl.render.order import moved
from rldsl.render.program import ProgramView
from rldsl.render.schedule import charts_of
from rldsl.render.select import ops_of, selected
from rldsl.render.words import describe
from tests.compiler.programs import graph_of
from tests.compiler.test_fuse_forwards import PROGRAM


def plan_with(*disable: str) -> Plan:
    return compile_graph(graph_of(PROGRAM), Options(disable=frozenset(disable)), source_dir=Path()).plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with()


def test_the_graph_is_that_of_the_plan_without_the_pass(plan: Plan) -> None:
    other = plan_with("fuse_forwards")
    assert {n.id: n for n in nodes_of(plan)} == {n.id: n for n in nodes_of(other)}
    assert set(edges_of(plan)) == set(edges_of(other))


def test_both_nodes_run_in_one_column(plan: Plan) -> None:
    (chart,) = charts_of(plan)
    marks = {row.label: {bar.begin for bar in row.bars} for row in chart.rows}
    assert marks["old"] == marks["baseline"] and len(marks["old"]) == 1
    assert marks["doubt"].isdisjoint(marks["old"])


def test_what_the_op_does_is_said_of_the_whole_and_of_each_part(plan: Plan) -> None:
    (op,) = (o for o in plan.ops() if isinstance(o, InferOp) and o.also)
    values, logp = "a value for every response token by critic", "log-probs of the responses by actor"
    assert describe(op) == f"{logp}; {values}, in one pass" and node_ids(op) == ("old", "baseline")
    assert [describe(part) for part in op.parts] == [logp, values]
    facts = Facts(plan)
    assert facts.writer["values"].node == "baseline" and facts.places[facts.writer["values"].id]
    assert {op.node for op in facts.readers["tokens"]} >= {"old", "baseline"}


def test_a_selector_of_either_finds_it(plan: Plan) -> None:
    for name in ("old", "baseline"):
        assert "old+baseline" in ops_of(plan, selected(plan, [name]))


def test_the_program_names_both(plan: Plan) -> None:
    said = io.StringIO()
    console = Console(file=said, width=120, color_system=None)
    console.print(ProgramView(plan, plan.programs[0]))
    assert "old, baseline" in said.getvalue()


def test_a_difference_in_fusing_alone_is_one_of_nodes_and_not_of_order(plan: Plan) -> None:
    other = plan_with("fuse_forwards")
    assert not moved(other, plan) and not moved(plan, other)
    before, after = node_facts(other), node_facts(plan)
    assert {name for name in after if after[name] != before[name]} == {"old", "baseline"}
    assert after["old"]["in one pass with"] == "baseline" and before["old"]["in one pass with"] is None


def test_a_page_names_both_and_explains_each(plan: Plan) -> None:
    page = page_of(plan)
    assert (
        '<span class="name" data-name="old">old</span>, <span class="name" data-name="baseline">baseline</span>' in page
    )
