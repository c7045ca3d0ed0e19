"""The graph, the programs and the exports of a plan built by hand."""

import msgspec
import pytest

from rldsl.compiler.plan import Group, Program, ReshardOp
from rldsl.render.export import dot, mermaid
from rldsl.render.graph import GraphView, _connector
from rldsl.render.nodes import edges_of, layers_of, nodes_of
from rldsl.render.program import DroppedView, PlanHeader, ProgramView, ranks_of
from rldsl.render.words import describe, flow, number, ranks_words

WIDTHS = (80, 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_graph(plan, drawn, same_as_golden, width):
    text = drawn(GraphView(plan), width)
    assert max(map(len, text.splitlines())) <= width
    same_as_golden(f"graph-{width}.txt", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_program(plan, drawn, same_as_golden, width):
    views = (PlanHeader(plan), ProgramView(plan, plan.programs[0]), DroppedView(plan))
    text = "\n".join(drawn(view, width) for view in views)
    assert max(map(len, text.splitlines())) <= width
    same_as_golden(f"program-{width}.txt", text)


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_any_width_fits(plan, drawn, width):
    text = drawn(GraphView(plan), width)
    assert max(map(len, text.splitlines())) <= max(width, 24)


def test_nodes_that_wait_for_nothing_share_a_layer(plan):
    layers = layers_of(nodes_of(plan))
    assert [[n.id for n in layer] for layer in layers] == [
        ["input_prompts"],
        ["rollout"],
        ["reward", "ref", "values"],
        ["advantage"],
        ["update_actor", "update_critic"],
    ]


def test_edges_carry_their_fields(plan):
    edges = edges_of(nodes_of(plan))
    assert ("reward", "advantage", ("score",)) in edges
    assert ("rollout", "update_actor", ("tokens", "response_mask")) in edges
    assert len(edges) == len({(a, b) for a, b, _ in edges})


def test_roles_default_to_the_models_kind(plan):
    bare = msgspec.structs.replace(plan, roles={})
    roles = {n.id: n.role for n in nodes_of(bare)}
    assert roles["values"] == "CRITIC"
    assert roles["ref"] == "REFERENCE"
    assert roles["rollout"] == "ACTOR"
    assert roles["reward"] == "COMPUTE"


def test_a_name_longer_than_its_box_is_cut(plan, drawn):
    ops = plan.programs[0].ops
    renamed = msgspec.structs.replace(ops[2], node="a_very_long_name_for_a_node_that_samples_responses_to_prompts")
    text = drawn(GraphView(msgspec.structs.replace(plan, programs=(Program(ops=(ops[0], renamed)),))), 80)
    assert "…" in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_empty_plan_is_said_to_be_empty(plan, drawn):
    assert drawn(GraphView(msgspec.structs.replace(plan, programs=())), 80) == "(no nodes)\n"


@pytest.mark.parametrize(
    ("sources", "targets", "lines"),
    [
        ([5], [5], ["     ▼"]),
        ([5], [6], ["      ▼"]),
        ([4], [1, 7], [" ┌──┴──┐", " ▼     ▼"]),
        ([1, 7], [4], [" └──┬──┘", "    ▼"]),
        ([1, 7], [1, 7], [" ├─────┤", " ▼     ▼"]),
        ([2, 4, 6], [4], ["  └─┼─┘", "    ▼"]),
    ],
)
def test_connector(sources, targets, lines):
    assert [line.plain for line in _connector(sources, targets)] == lines


def test_ranks(plan):
    assert ranks_words(plan) == "any number of ranks that divides 16"
    assert ranks_words(msgspec.structs.replace(plan, world_size=1)) == "exactly 1 rank"
    assert ranks_of(Program(ops=()), None) == "every rank"
    assert ranks_of(Program(first=0, last=4, ops=()), 4) == "every rank"
    assert ranks_of(Program(first=0, last=1, ops=()), 4) == "rank 0"
    assert ranks_of(Program(first=0, last=2, ops=()), 4) == "ranks 0 to 1"
    assert ranks_of(Program(first=2, ops=()), None) == "ranks 2 and up"


def test_a_reshard_says_from_where_to_where(plan):
    op = ReshardOp(id="r", fields=("tokens", "score"), source="half", target="world")
    assert describe(op) == "move rows from group half to group world (all-to-all)"
    assert flow(op) == "tokens, score"
    assert Group(name="half", size=2)


def test_every_op_has_words(plan):
    assert all(describe(op) for op in plan.ops())


@pytest.mark.parametrize(("value", "text"), [(1e-5, "1e-5"), (0.2, "0.2"), (1.0, "1"), (1e12, "1e+12"), (1e7, "1e+7")])
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_exports(plan, same_as_golden):
    same_as_golden("graph.mmd", mermaid(plan))
    same_as_golden("graph.dot", dot(plan))
