"""Phases and nodes on ranks of their own: groups, what moves between them and what stays, and which ranks must know."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.mutants import wholes
from rldsl.compiler.format import format_text
from rldsl.compiler.ops import CollectOp, FreeOp, Move, ReshardOp, SyncKind, SyncWeightsOp, TakeOp
from rldsl.compiler.pipeline import Options, compile_file, compile_graph
from rldsl.compiler.plan import Group, Plan
from rldsl.compiler.plan_io import dumps
from rldsl.compiler.printer import print_graph
from rldsl.compiler.ranks import contains
from rldsl.compiler.verify import verify_plan
from rldsl.compiler.volume import Volumes
from rldsl.diagnostics import DiagnosticError, Severity
from tests.compiler.programs import EXAMPLES, PPO, PROGRAM, graph_of
from tests.compiler.python_programs import SMALL
from tests.compiler.random_deployments import deployments
from tests.compiler.random_programs import programs
from tests.compiler.test_fuzz import RESAMPLED
from tests.compiler.test_random_graphs import tries


def plan_of(text: str, *lines: str) -> Plan:
    deployed = text + "".join(("deploy {\n", *(f"  {line}\n" for line in lines), "}\n"))
    plan = compile_graph(graph_of(deployed), Options(), source_dir=Path()).plan
    assert verify_plan(plan) == []
    return plan


def moves(plan: Plan) -> list[ReshardOp]:
    return [op for op in plan.ops() if isinstance(op, ReshardOp)]


def problems(plan: Plan, op_id: str, **fields: object) -> str:
    """What is said of a plan in which one op is another."""
    made = tuple(
        msgspec.structs.replace(
            p, ops=tuple(msgspec.structs.replace(o, **fields) if o.id == op_id else o for o in p.ops)
        )
        for p in plan.programs
    )
    return "\n".join(d.message for d in verify_plan(msgspec.structs.replace(plan, programs=made)))


APART = ("critic.train : fsdp() on 4..7", "actor.train : fsdp() on 0..3", "actor.generate : hf() on 8..9")
NESTED = ("reference.infer : fsdp() on 0..1", "actor.train : megatron(tp = 2, pp = 2) on 0..3")


# -- what moves, and what stays


@pytest.mark.parametrize("lines", [APART, NESTED, ("actor.generate : hf(dp = 1) on 1", "cluster 2 x cpu")])
def test_a_field_goes_to_each_layout_once(lines: tuple[str, ...]) -> None:
    plan = plan_of(PPO, *lines)
    layouts = {g.name: g.layout(plan.world_size) for g in plan.groups}
    came = Counter((name, layouts[op.target]) for op in moves(plan) for name in op.fields)
    assert came and set(came.values()) == {1}
    written = {name: layouts[op.group] for op in plan.ops() if not isinstance(op, ReshardOp) for name in op.writes}
    assert not any(written[name] == there for name, there in came), "nothing comes back to where it was written"


def test_every_example_apart_moves_each_field_to_each_layout_once() -> None:
    for whole in wholes():
        layouts = {g.name: g.layout(whole.plan.world_size) for g in whole.plan.groups}
        came = Counter((name, layouts[op.target]) for op in moves(whole.plan) for name in op.fields)
        assert max(came.values(), default=1) == 1, whole.name


def test_overlapping_groups_hold_a_field_in_both_layouts() -> None:
    plan = plan_of(PPO, *NESTED)
    to_scores = next(op for op in moves(plan) if op.target == "ranks0-1" and "tokens" in op.fields)
    assert to_scores.kind is Move.LOCAL and {"tokens", "response_mask"} <= set(to_scores.keeps)
    freed = Counter((name, op.group) for op in plan.programs[0].ops if isinstance(op, FreeOp) for name in op.fields)
    assert freed["tokens", "ranks0-1"] == freed["tokens", "ranks0-3-tp2-pp2"] == freed["tokens", "world"] == 1


def test_rows_leave_when_nothing_reads_them_any_more() -> None:
    plan = plan_of(PPO, *APART)
    last = [op for op in moves(plan) if op.source == "ranks8-9" and "tokens" in op.fields][-1]
    assert "tokens" not in last.keeps
    # The ranks that generate are then done with the step: they send, and wait for nobody's training.
    generating = plan.program(8).ops
    assert generating[-1].id == last.id
    assert not any(isinstance(op, SyncWeightsOp) for op in generating[generating.index(last) :])


def test_groups_that_differ_in_experts_alone_hold_the_same_rows() -> None:
    experts = re.sub(r"policy = scratch\(.*\)", 'policy = hf("Qwen/Qwen3-30B-A3B")', PROGRAM)
    assert moves(plan_of(experts, "actor.train : megatron(ep = 2) on 0..3")) == []


def test_a_move_that_keeps_too_much_or_too_little_is_refused() -> None:
    plan = plan_of(PPO, *APART)
    first = moves(plan)[0]
    assert "tokens" in first.keeps
    gone = problems(plan, first.id, keeps=())
    assert "reads `tokens`, which is not there" in gone
    idle = problems(plan, first.id, keeps=first.fields)
    assert "is never freed" in idle
    assert "keeps `ghost`, which it does not move" in problems(plan, first.id, keeps=(*first.keeps, "ghost"))


def test_what_is_kept_must_be_read() -> None:
    plan = plan_of(PPO, *APART)
    first = moves(plan)[0]
    free = FreeOp(id="free:kept", group=first.source, fields=("completions",))
    made = tuple(
        msgspec.structs.replace(p, ops=tuple(x for o in p.ops for x in ((o, free) if o.id == first.id else (o,))))
        if free.group in {o.group for o in p.ops}
        else p
        for p in plan.programs
    )
    said = problems(msgspec.structs.replace(plan, programs=made), first.id, keeps=(*first.keeps, "completions"))
    assert f"`{first.id}` keeps `completions` for nothing" in said


def test_a_move_is_among_the_ranks_of_its_ends_and_no_others() -> None:
    plan = plan_of(PPO, *APART)
    first = moves(plan)[0]
    assert "together" in problems(plan, first.id, group=first.source)


def test_bytes_of_a_step_fall_where_fields_went_to_and_fro() -> None:
    """Before copies, `tokens` went back to the training after the scoring, and again to the critic."""
    plan = plan_of(PPO, *NESTED)
    sent = [name for op in moves(plan) if op.kind is not Move.LOCAL for name in op.fields]
    assert sorted(sent) == ["advantages", "ref_logp", "response_mask", "tokens"]
    assert Volumes(plan).moved().at({"P": 8}) > 0


# -- programs


def test_ops_come_in_an_order_that_is_that_of_every_program() -> None:
    for whole in wholes():
        place = {op.id: i for i, op in enumerate(whole.plan.ops())}
        for program in whole.plan.programs:
            assert [place[op.id] for op in program.ops] == sorted(place[op.id] for op in program.ops), whole.name


def test_programs_that_disagree_still_have_all_their_ops() -> None:
    plan = plan_of(PPO, *APART)
    crossed = msgspec.structs.replace(plan.programs[0], ops=plan.programs[0].ops[::-1])
    made = msgspec.structs.replace(plan, programs=(crossed, *plan.programs[1:]))
    assert sorted(o.id for o in made.ops()) == sorted(o.id for o in plan.ops())


# -- loops that collect


@pytest.mark.parametrize(
    "lines",
    [
        ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3"),
        ("actor.train : fsdp() on 2..3", "actor.generate : hf() on 0..1"),
        ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3", "resample.reward on 2..3"),
        ("actor.train : megatron(tp = 2) on 0..3", "actor.generate : vllm(tp = 2) on 4..5"),
        ("actor.train : megatron(cp = 2) on 0..3", "actor.generate : vllm(tp = 2) on 2..5", "resample.spread on 5"),
    ],
)
def test_all_who_wait_for_a_collection_count_it(lines: tuple[str, ...]) -> None:
    plan = plan_of(RESAMPLED, *lines)
    world = plan.world_size
    assert world is not None
    (into,) = {op.group for op in plan.ops() if isinstance(op, CollectOp | TakeOp)}
    counts = plan.group(into)
    assert 16 % counts.dp(world) == 8 % counts.dp(world) == 0
    for op in plan.ops():
        if op.guard is not None and op.guard.until is not None and not isinstance(op, ReshardOp):
            assert contains(counts.spans(world), plan.group(op.group).spans(world)), op.id


def test_more_ranks_than_the_prompts_divide_over_hold_copies() -> None:
    plan = plan_of(RESAMPLED, "actor.train : fsdp() on 0..3", "actor.generate : hf() on 4..5")
    (into,) = {op.group for op in plan.ops() if isinstance(op, CollectOp)}
    assert plan.group(into) == Group(name="ranks0-5-tp3", ranks=((0, 6),), tp=3)


def test_nodes_of_a_loop_are_placed_by_their_names() -> None:
    plan = plan_of(RESAMPLED, "cluster 4 x cpu", "resample.reward on 2..3")
    rounds = {op.id: op.group for op in plan.ops() if op.node == op.id and op.id.endswith(".reward")}
    assert len(rounds) == 4 and set(rounds.values()) == {"ranks2-3"}


# -- weights


def test_transfers_between_groups() -> None:
    def kind(*lines: str) -> SyncKind:
        return next(op.sync for op in plan_of(PROGRAM, *lines).ops() if isinstance(op, SyncWeightsOp))

    assert kind("actor.train : fsdp() on 0..3", "actor.generate : hf() on 4..5") is SyncKind.BROADCAST
    assert kind("actor.train : fsdp() on 0..3", "actor.generate : hf() on 3..4") is SyncKind.BROADCAST
    assert kind("actor.train : fsdp() on 0..3", "actor.generate : hf() on 2..3") is SyncKind.ALL_GATHER
    assert kind("actor.train : fsdp() on 0", "reward on 1", "actor.generate : hf() on 0") is SyncKind.LOCAL


# -- from text and from Python

NODES = SMALL.replace("lr = rl.param(0.01, gt=0)", 'rl.algorithm("apart")').replace("lr=lr", "lr=0.001")
TWIN = f"""{NODES}

rl.deploy(cluster=(6, "cpu"))
rl.layout(actor, "train", "megatron", tp=2, on=(0, 3))
rl.layout(actor, "generate", "hf", dp=2, on=(4, 5))
rl.place("reward", on=(4, 4))
"""
TEXT = """\
algorithm apart {
  model actor : policy = scratch(; alphabet = "01")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 4
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}

deploy {
  cluster 6 x cpu
  actor.train    : megatron(tp = 2) on 0..3
  actor.generate : hf(dp = 2) on 4..5
  reward on 4
}
"""


def test_twins(tmp_path: Path) -> None:
    (tmp_path / "apart.py").write_text(TWIN)
    (tmp_path / "apart.rl").write_text(TEXT)
    text, python = (compile_file(tmp_path / f"apart.{suffix}").plan for suffix in ("rl", "py"))
    assert text.programs == python.programs and text.groups == python.groups and text.phases == python.phases


def test_the_usual_form_is_its_own() -> None:
    untidy = (
        TEXT.replace("    : meg", ":meg").replace("on 0..3", "on   0 .. 3").replace("  reward on 4", "reward on 4..4")
    )
    tidy = format_text(untidy, "apart.rl")
    assert tidy == TEXT.replace("reward on 4\n", "reward on 4..4\n") or tidy == TEXT
    assert graph_of(tidy) == graph_of(TEXT) == graph_of(print_graph(graph_of(TEXT)))


def test_a_line_of_the_command_line_places_a_node(tmp_path: Path) -> None:
    (tmp_path / "apart.rl").write_text(TEXT)
    plan = compile_file(tmp_path / "apart.rl", Options(layouts=("reward on 5", "advantage on 3"))).plan
    assert {op.id: op.group for op in plan.ops() if op.id in ("reward", "advantage")} == {
        "reward": "ranks5",
        "advantage": "ranks3",
    }


# -- any deployment


@tries(60)
@given(st.sampled_from((PPO, PROGRAM, RESAMPLED)) | programs(), st.data())
def test_any_deployment_has_a_plan_or_a_diagnosis(text: str, data: st.DataObject) -> None:
    graph = graph_of(text)
    graph = replace(graph, deploy=data.draw(deployments(graph)))
    assert graph_of(print_graph(graph)) == graph
    assert graph_of(format_text(print_graph(graph), "random.rl")) == graph
    try:
        plan = compile_graph(graph, Options(), source_dir=Path()).plan
    except DiagnosticError as error:
        wrong = [d for d in error.diagnostics if d.severity is Severity.ERROR]
        assert wrong and all(d.code in ("RL0402", "RL0403", "RL0506", "RL0813") for d in wrong)
    else:
        assert verify_plan(plan) == []


# -- a planner that cuts diamonds into chains, loses nodes, doubles with each, or follows the order of a set


def diamonds(count: int) -> Plan:
    """A chain of diamonds whose sides are on ranks of their own."""
    nodes, lines, last = "", [], "score"
    for i in range(count):
        nodes += f"  node a{i} = compute sum_scores({last}, score) -> x{i}\n"
        nodes += f"  node b{i} = compute sum_scores({last}, {last}) -> y{i}\n"
        nodes += f"  node c{i} = compute sum_scores(x{i}, y{i}) -> z{i}\n"
        lines += [f"a{i} on 1", f"b{i} on 2"]
        last = f"z{i}"
    text = PROGRAM.replace("  node advantage", nodes + "  node advantage").replace("(score; group)", f"({last}; group)")
    return plan_of(text, "actor.train : fsdp() on 0", "actor.generate : hf() on 0", *lines)


def test_chained_diamonds_on_several_ranks_keep_their_nodes_and_grow_with_their_number() -> None:
    small, large = diamonds(8), diamonds(16)
    for plan, count in ((small, 8), (large, 16)):
        nodes = Counter(op.node for op in plan.ops() if op.node and op.id == op.node)
        assert {f"{side}{i}": 1 for side in "abc" for i in range(count)}.items() <= nodes.items()
        assert {n for n, group in ((op.node, op.group) for op in plan.ops()) if group == "ranks2"} >= {
            "b0",
            f"b{count - 1}",
        }
    assert len(list(large.ops())) < 2.1 * len(list(small.ops()))
    assert len(dumps(large)) < 2.2 * len(dumps(small))
    assert dumps(diamonds(8)) == dumps(small)


def test_a_diamond_whose_sides_are_apart_meets_again() -> None:
    plan = plan_of(
        PPO, "critic.train : fsdp() on 2..3", "reference.infer : fsdp() on 4..5", "actor.train : fsdp() on 0..1"
    )
    assert set(plan.depths) == {op.node for op in plan.ops() if op.node}
    shaping = next(op for op in plan.ops() if op.id == "shaping")
    assert {"score", "ref_logp", "old_logp"} <= set(shaping.reads)
    assert {op.group for op in plan.ops() if op.id in ("old", "ref", "baseline")} == {
        "ranks0-1",
        "ranks4-5",
        "ranks2-3",
    }


# -- many ranks


@pytest.mark.parametrize("ranks", [1024, 131072])
def test_large_plans_are_small_and_coordinates_are_at_hand(ranks: int) -> None:
    half, quarter = ranks // 2, ranks // 4
    options = Options(
        settings=('model="Qwen/Qwen2.5-72B"', f"batch={ranks}", f"minibatch={ranks}"),
        layouts=(
            f"actor.train : megatron(tp = 4, cp = 2, pp = 2) on 0..{half - 1}",
            f"critic.train : fsdp() on {half}..{half + quarter - 1}",
            f"actor.generate : vllm(tp = 8) on {half + quarter}..{ranks - 1}",
            f"reference.infer : megatron(tp = 2, pp = 2) on {half}..{half + quarter - 1}",
        ),
    )
    plan = compile_file(EXAMPLES / "ppo.rl", options).plan
    assert plan.world_size == ranks and len(dumps(plan)) < 200_000
    began = time.process_time()
    for rank in range(0, ranks, ranks // 256):
        ops = plan.program(rank).ops
        places = [plan.group(op.group).coordinates(rank, ranks) for op in ops]
        assert ops and None not in places
    assert plan.phases[0].group and time.process_time() - began < 1.0
