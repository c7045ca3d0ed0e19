"""The graph, the programs and the exports of a plan built by hand."""

import io

import msgspec
import pytest
from rich.console import Console

from rldsl.compiler.ops import Arg, ReshardOp
from rldsl.compiler.plan import Program
from rldsl.render.export import dot, mermaid
from rldsl.render.graph import GraphView
from rldsl.render.lines import connector
from rldsl.render.nodes import edges_of, layers_of, nodes_of
from rldsl.render.program import DroppedView, PlanHeader, ProgramView
from rldsl.render.ranks import ranks_of
from rldsl.render.words import describe, flow, number, ranks_words

WIDTHS = (80, 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_graph(plan, drawn, golden, width):
    text = drawn(GraphView(plan), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"graph-{width}.txt", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_program(plan, drawn, golden, width):
    views = (PlanHeader(plan), ProgramView(plan, plan.programs[0]), DroppedView(plan))
    text = "\n".join(drawn(view, width) for view in views)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"program-{width}.txt", text)


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_any_width_fits(plan, drawn, width):
    text = drawn(GraphView(plan), width)
    assert max(map(len, text.splitlines())) <= max(width, 24)


def test_nodes_that_wait_for_nothing_share_a_layer(plan):
    layers = layers_of(nodes_of(plan))
    assert [[n.id for n in layer] for layer in layers] == [
        ["load"],
        ["rollout"],
        ["reward", "ref", "values"],
        ["advantage"],
        ["update_actor", "update_critic"],
    ]


def test_edges_carry_their_fields(plan):
    edges = edges_of(plan)
    assert ("reward", "advantage", ("score",), False) in edges
    assert ("rollout", "update_actor", ("tokens", "response_mask"), False) in edges
    assert len(edges) == len({(e.source, e.target) for e in edges})


def test_roles_default_to_the_models_kind(plan):
    bare = msgspec.structs.replace(plan, roles={})
    roles = {n.id: n.role for n in nodes_of(bare)}
    assert roles["values"] == "CRITIC"
    assert roles["ref"] == "REFERENCE"
    assert roles["rollout"] == "ACTOR"
    assert roles["reward"] == "COMPUTE"


@pytest.mark.parametrize(("length", "cut"), [(73, False), (74, True)])
def test_only_a_name_wider_than_the_terminal_is_cut(plan, drawn, length, cut):
    ops = plan.programs[0].ops
    renamed = msgspec.structs.replace(ops[2], node="a" * length)
    text = drawn(GraphView(msgspec.structs.replace(plan, programs=(Program(ops=(ops[0], renamed)),))), 80)
    assert ("…" in text) == cut
    assert max(map(len, text.splitlines())) <= 80


def test_an_empty_plan_is_said_to_be_empty(plan, drawn):
    assert drawn(GraphView(msgspec.structs.replace(plan, programs=())), 80) == "(no nodes)\n"


@pytest.mark.parametrize(
    ("pairs", "lines"),
    [
        ([(5, 5)], ["     ▼"]),
        ([(5, 6)], ["      ▼"]),
        ([(4, 1), (4, 7)], [" ┌──┴──┐", " ▼     ▼"]),
        ([(1, 4), (7, 4)], [" └──┬──┘", "    ▼"]),
        ([(1, 1), (1, 7), (7, 1), (7, 7)], [" ├─────┤", " ▼     ▼"]),
        ([(2, 4), (4, 4), (6, 4)], ["  └─┼─┘", "    ▼"]),
        ([(1, 1), (7, 4)], [" │  ┌──┘", " ▼  ▼"]),
    ],
)
def test_connector(pairs, lines):
    assert [line.plain for line in connector(pairs)] == lines


def test_ranks(plan):
    assert ranks_words(plan) == "any number of ranks that divides 16"
    assert ranks_words(msgspec.structs.replace(plan, world_size=1)) == "exactly 1 rank"
    assert ranks_of(Program(ops=()), None) == "every rank"
    assert ranks_of(Program(first=0, last=4, ops=()), 4) == "every rank"
    assert ranks_of(Program(first=0, last=1, ops=()), 4) == "rank 0"
    assert ranks_of(Program(first=0, last=2, ops=()), 4) == "ranks 0 to 1"
    assert ranks_of(Program(first=2, ops=()), None) == "ranks 2 and up"


def test_a_reshard_says_from_where_to_where(plan):
    op = ReshardOp(id="r", fields=("tokens", "score"), source="half", target="world", batch=16)
    assert describe(op) == "move rows from group half to group world (all-to-all)"
    assert flow(op) == "tokens, score"


def test_every_op_has_words(plan):
    assert all(describe(op) for op in plan.ops())


@pytest.mark.parametrize(("value", "text"), [(1e-5, "1e-5"), (0.2, "0.2"), (1.0, "1"), (1e12, "1e+12"), (1e7, "1e+7")])
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_exports(plan, golden):
    assert mermaid(plan) == golden("graph.mmd", mermaid(plan))
    assert dot(plan) == golden("graph.dot", dot(plan))


def test_boxes_in_several_rows_share_their_columns(plan, drawn):
    ops = plan.programs[0].ops
    old = msgspec.structs.replace(ops[4], id="old", node="old", model="actor", output="old_logp")
    reading = msgspec.structs.replace(ops[6], args=(*ops[6].args, Arg(param="old_logp", field="old_logp")))
    wide = (*ops[:4], old, *ops[4:6], reading, *ops[7:])
    more = msgspec.structs.replace(plan, depths={**plan.depths, "old": 1}, programs=(Program(ops=wide),))
    lines = drawn(GraphView(more), 80).splitlines()
    rows = [line for line in lines if "reward ─" in line or "ref ─" in line]
    assert "─ old ─" in rows[0]
    assert "─ values ─" in rows[1]
    bars = [line.strip() for line in lines if line.strip().startswith("└") and "┬" in line]
    assert len(bars) == 1


def test_roles_and_types_have_colours(plan):
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(GraphView(plan))
    drawn = console.file.getvalue()
    for name, code in (("rollout", 36), ("update_critic", 35), ("reward", 33), ("ref", 34)):
        assert f"\x1b[1;{code}m{name}\x1b[0m" in drawn
    for kind, code in (("MODEL_INFERENCE", 96), ("MODEL_TRAIN", 91), ("COMPUTE", 92)):
        assert f"\x1b[{code}m{kind}\x1b[0m" in drawn
