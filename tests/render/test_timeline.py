"""The schedule, what moves, and selections of plans built by hand."""

import msgspec
import pytest

from bench.random_graph import RandomGraph
from rldsl.compiler.ops import ComputeOp, InferMethod, InferOp, ReshardOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import FieldSpec, Group, MemoryPlan, ModelSpec, Plan, Program
from rldsl.compiler.volume import Rows
from rldsl.render.facts import Facts, in_order
from rldsl.render.flows import Kind, Way, flows_of
from rldsl.render.moves import FlowView, flows_json
from rldsl.render.schedule import Bar, Mark, charts_of
from rldsl.render.select import Selector, SelectorError, names_of, ops_of, parse_selector, selected
from rldsl.render.sizes import bytes_words, rows_words, share_words, size_words
from rldsl.render.timeline import TimelineView
from tests.compiler.programs import EXAMPLES
from tests.render.loops import collecting, talking

WIDTHS = (80, 120)


TYPES = {
    "prompts": "text[prompt]",
    "answers": "text[prompt]",
    "completions": "text[sample]",
    "score": "f32[sample]",
    "tokens": "i64[sample, token]",
    "response_mask": "bool[sample, token]",
}


def fields_of(plan):
    """Specs of all that the plan's ops write, 8 samples a prompt."""
    written = [f for op in plan.ops() for f in op.writes]
    types = {f: TYPES.get(f.rpartition(".")[2], "f32[sample, token]") for f in written}
    return tuple(FieldSpec(name=f, type=t, producer="", per_prompt=8 if "sample" in t else 1) for f, t in types.items())


def typed(plan):
    return msgspec.structs.replace(plan, fields=fields_of(plan))


def split(plan):
    """The rollout on the first two of four ranks, its rows moved to all."""
    ops = list(plan.programs[0].ops)
    rollout = msgspec.structs.replace(ops[2], group="two")
    there = ReshardOp(id="there", fields=("prompts",), source="world", target="two", batch=16)
    back = ReshardOp(id="back", fields=("tokens", "response_mask"), source="two", target="world", batch=16)
    some = (*ops[:2], there, rollout, back, *ops[3:])
    rest = tuple(op for op in some if op.group == "world")
    programs = (Program(first=0, last=2, ops=some), Program(first=2, last=4, ops=rest))
    groups = (Group(name="world"), Group(name="two", ranks=((0, 2),)))
    made = msgspec.structs.replace(plan, world_size=4, groups=groups, programs=programs)
    return typed(made)


def drawn_at(row):
    """By column what a row shows there."""
    return {column: bar.mark for bar in row.bars for column in range(bar.begin, bar.end)}


def predicted(plan, seconds):
    """The plan with predicted seconds of some ops."""
    memory = MemoryPlan(
        budget=1, reserve=0, states=(), ops=(), peak=1, peak_op="", unplanned=1, unplanned_op="", moved_seconds=0.0,
        solver="", seconds=seconds,
    )  # fmt: skip
    return msgspec.structs.replace(plan, memory=memory)


PLANS = {"collecting": typed(collecting()), "talking": typed(talking())}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["collecting", "talking", "split"])
def test_pictures(plan, name, width, drawn, golden):
    shown = split(plan) if name == "split" else PLANS[name]
    views = (FlowView(shown, flows_of(shown)), TimelineView(charts_of(shown)))
    text = "\n".join(drawn(view, width) for view in views)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"{name}-schedule-{width}.txt", text)


def test_columns_are_the_same_ops_for_all_ranks(plan):
    first, second = charts_of(split(plan))
    assert (first.title, second.title) == ("ranks 0 to 1", "ranks 2 to 3")
    assert len(first.numbers) == len(second.numbers) == 12
    assert second.numbers[3] is None
    assert "rollout" not in [r.label for r in second.rows]
    assert {r.label: drawn_at(r) for r in first.rows}["move rows"] == {2: Mark.TALKS, 4: Mark.TALKS}


def test_marks(plan):
    (chart,) = charts_of(plan)
    marks = {r.label: r.bars[0].mark for r in chart.rows}
    assert marks["rollout"] is Mark.ALONE
    assert marks["advantage"] is Mark.MEETS
    assert marks["weights of actor"] is Mark.TALKS


def test_who_waits_for_whom(plan):
    first, second = charts_of(split(plan))
    assert first.waits == ()
    (wait,) = second.waits
    assert (wait.op, wait.number, wait.last, wait.ops) == ("reshard", 3, "ranks 0 to 1", ("rollout",))
    assert Bar(3, 4, Mark.WAITS, 3) in second.lane
    assert Bar(3, 4, Mark.ALONE, 3, "ACTOR") in first.lane


def test_ranks_that_do_not_meet_work_at_the_same_time(plan):
    ops = plan.programs[0].ops
    reward, rollout = ops[3], ops[2]
    apart = (
        Program(first=0, last=2, ops=(msgspec.structs.replace(rollout, group="a"), ops[4])),
        Program(first=2, last=4, ops=(msgspec.structs.replace(reward, group="b"), ops[4])),
    )
    first, second = charts_of(msgspec.structs.replace(plan, world_size=4, programs=apart))
    assert [drawn_at(r) for r in first.rows] == [{0: Mark.ALONE}, {1: Mark.MEETS}]
    assert [drawn_at(r) for r in second.rows] == [{0: Mark.ALONE}, {1: Mark.MEETS}]
    assert first.waits == second.waits == ()


def test_what_runs_in_the_background():
    ops = (
        ComputeOp(id="reward", node="reward", function="f", args=(), outputs=("score",), background=True),
        InferOp(id="ref", node="ref", model="m", method=InferMethod.LOGPROB, tokens="t", response_mask="r", output="o"),
        WaitOp(id="wait:reward", node="reward", begun="reward", holds=()),
    )
    plan = Plan(
        algorithm="a", parameters={}, divides=1, models=(), fields=(), functions=(), groups=(Group(name="world"),),
        programs=(Program(ops=ops),),
    )  # fmt: skip
    spec = ModelSpec(name="m", kind="policy", source="hf")
    (chart,) = charts_of(msgspec.structs.replace(plan, models=(spec,)))
    (reward,) = (r for r in chart.rows if r.label == "reward")
    assert drawn_at(reward) == {0: Mark.BESIDE, 1: Mark.BESIDE, 2: Mark.WAITS}


def test_columns_are_as_long_as_predicted(plan):
    """Four seconds of sampling on the first ranks, during which the others wait; what has no seconds has an order."""
    first, second = charts_of(predicted(split(plan), {"rollout": 4.0, "ref": 1.0, "back": 0.5}))
    at = {r.label: r.bars[0] for r in first.rows}
    assert first.seconds == second.seconds
    assert first.seconds[at["rollout"].begin] == 4.0 and sum(first.seconds) == 5.5
    assert first.taken[at["rollout"].number] == 4.0
    (wait,) = second.waits
    assert (wait.seconds, wait.ops) == (4.0, ("rollout",))
    (waiting,) = (bar for bar in second.lane if bar.mark is Mark.WAITS)
    assert sum(second.seconds[waiting.begin : waiting.end]) == 4.0
    assert first.seconds[at["reward"].begin] == 0.0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_schedule_to_scale(plan, width, drawn, golden):
    seconds = {"rollout": 4.0, "ref": 0.9, "update_actor": 3.0, "update_critic": 2.0, "back": 0.25}
    text = drawn(TimelineView(charts_of(predicted(split(plan), seconds))), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"predicted-schedule-{width}.txt", text)


def test_what_runs_in_the_background_is_as_long_as_predicted():
    """A function of two seconds beside a forward of three is done before it is waited for; one of five is not."""
    program = (
        ComputeOp(id="short", node="short", function="f", args=(), outputs=("a",), background=True),
        ComputeOp(id="long", node="long", function="f", args=(), outputs=("b",), background=True),
        InferOp(id="ref", node="ref", model="m", method=InferMethod.LOGPROB, tokens="t", response_mask="r", output="o"),
        WaitOp(id="wait:short", node="short", begun="short", holds=()),
        WaitOp(id="wait:long", node="long", begun="long", holds=()),
    )
    plan = Plan(
        algorithm="a", parameters={}, divides=1, models=(ModelSpec(name="m", kind="policy", source="hf"),), fields=(),
        functions=(), groups=(Group(name="world"),), programs=(Program(ops=program),),
    )  # fmt: skip
    (chart,) = charts_of(predicted(plan, {"short": 2.0, "long": 5.0, "ref": 3.0}))
    rows = {r.label: r for r in chart.rows}

    def seconds_of(label, mark):
        return sum(chart.seconds[c] for c, m in drawn_at(rows[label]).items() if m is mark)

    assert (seconds_of("short", Mark.BESIDE), seconds_of("short", Mark.WAITS)) == (2.0, 0.0)
    assert (seconds_of("long", Mark.BESIDE), seconds_of("long", Mark.WAITS)) == (3.0, 2.0)


def test_a_long_schedule_has_every_op_once(tmp_path, drawn):
    """Cut into parts, each with the rows that do something in it."""
    file = tmp_path / "long.rl"
    file.write_text(RandomGraph(300).text)
    (chart,) = charts_of(compile_file(file).plan)
    text = drawn(TimelineView([chart]), 80)
    lines = text.splitlines()
    assert len(chart.numbers) > 80 and max(map(len, lines)) <= 80
    bars = sum(bar.end - bar.begin for row in chart.rows for bar in row.bars)
    legend = next(i for i, line in enumerate(lines) if line.startswith("█ works"))
    assert sum(line.count(m.value) for line in lines[:legend] for m in Mark) == bars


def test_weights_on_their_way_in_the_background():
    """Who begins a transfer goes on; who waits for it waits for those who begin it later, too."""
    layouts = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3")
    options = Options(disable=frozenset({"elide_old_logp"}), layouts=layouts)
    shown = compile_file(EXAMPLES / "off_policy.rl", options).plan
    train, generate = charts_of(shown)
    (mine,), (theirs,) = ([r for r in c.rows if r.label == "weights of actor"] for c in (train, generate))
    marks = drawn_at(mine)
    wait = max(marks)
    assert marks == {**dict.fromkeys(range(wait), Mark.BESIDE), wait: Mark.WAITS}
    begun, *_, arrived = sorted(drawn_at(theirs))
    assert begun == 2 and drawn_at(theirs)[arrived] is Mark.WAITS
    assert [w.op for w in train.waits] == ["reshard"] and not generate.waits
    assert not any(r.label == "rollout" for r in train.rows)


def test_one_order_agrees_with_all_programs(plan):
    shown = split(plan)
    order = [op.id for op in in_order(shown)]
    for program in shown.programs:
        assert [name for name in order if name in {op.id for op in program.ops}] == [op.id for op in program.ops]


def test_a_narrow_terminal_cuts_the_columns(drawn):
    text = drawn(TimelineView(charts_of(PLANS["collecting"])), 40)
    assert max(map(len, text.splitlines()[1:-1])) <= 40
    assert text.count("every rank") == 2


def test_an_empty_plan_has_no_schedule(plan, drawn):
    empty = msgspec.structs.replace(plan, programs=())
    assert drawn(TimelineView(charts_of(empty)), 80) == ""
    assert drawn(FlowView(empty, flows_of(empty)), 80) == ""


def test_ways(plan):
    flows = {(f.source, f.target, f.what): f for f in flows_of(split(plan))}
    assert flows["load", "rollout", ("prompts",)].between == "world -> two"
    assert flows["rollout", "ref", ("tokens", "response_mask")].way is Way.ALL_TO_ALL
    assert flows["reward", "advantage", ("score",)].way is Way.LOCAL
    assert flows["update_actor", "rollout", ("weights of actor",)].way is Way.GATHERED
    kept = [f for f in flows_of(collecting()) if f.source == "resample.collect"]
    assert {(f.way, f.kind) for f in kept} == {(Way.ALL_TO_ALL, Kind.ROWS)}


def test_only_the_first_edge_that_a_move_serves_sends_anything(plan):
    sent = {(f.source, f.target): f.sent for f in flows_of(split(plan)) if "tokens" in f.what}
    assert [(s.prompts, s.of) for s in sent["rollout", "ref"]] == [(8, 16)]
    assert sent["rollout", "values"] == ()


def test_what_only_waits_is_an_edge_too(plan):
    ordered = msgspec.structs.replace(plan, edges=(("reward", "ref", "after"),))
    (edge,) = (f for f in flows_of(ordered) if f.kind is Kind.ORDER)
    assert (edge.source, edge.target, edge.what) == ("reward", "ref", ())


def test_flows_as_data(plan):
    found = {(f["source"], f["target"]): f for f in flows_json(split(plan), flows_of(split(plan)))}
    moved = found["rollout", "ref"]
    assert moved["how"] == "all-to-all" and moved["carries"] == ["tokens", "response_mask"]
    assert moved["bytes"] == {"constant": 128 * 24 * 9, "symbols": {"P": 128 * 9}, "at_most": True}
    assert moved["sent"][0]["bytes"]["symbols"] == {"P": 64 * 9}
    assert found["reward", "advantage"]["bytes"] == {"constant": 512, "symbols": {}, "at_most": False}
    assert found["update_actor", "rollout"]["bytes"] is None


def test_weights_of_a_shared_trunk_come_from_its_trainings():
    ends = {(f.source, f.target) for f in flows_of(talking()) if f.what == ("weights of actor",)}
    assert {source for source, _ in ends} >= {"update"}
    assert {target for _, target in ends} == {"talk.act"}


@pytest.mark.parametrize(
    ("rows", "ranks", "words"),
    [
        (Rows(8, 4), 2, "8 prompts x 4 samples = 32 rows, 16 a rank on 2 ranks"),
        (Rows(8, 4), 3, "8 prompts x 4 samples = 32 rows, 8 or 12 a rank on 3 ranks"),
        (Rows(1, 4), 2, "1 prompt x 4 samples = 4 rows, 0 or 4 a rank on 2 ranks"),
        (Rows(16, 1), 1, "16 prompts, a row each, 16 a rank on 1 rank"),
        (
            Rows(16, 8, at_most=True),
            None,
            "at most 16 prompts x 8 samples = 128 rows, spread over all ranks, a prompt's rows on one",
        ),
    ],
)
def test_rows(rows, ranks, words):
    assert f"{rows_words(rows)}, {share_words(rows, ranks)}" == words


def test_sizes(plan):
    facts = Facts(split(plan))
    assert size_words(facts, ["score", "tokens", "response_mask"]) == "16 x 8 rows, at most (P + 24) x 9 B + 4 B"
    assert size_words(facts, ["prompts", "score"]) == "16 rows, at most text; 16 x 8 rows x 4 B = 512 B"
    assert size_words(Facts(typed(collecting())), ["tokens"]) == "at most 16 x 8 rows, at most (P + 512) x 8 B"
    assert [bytes_words(n) for n in (128, 1500, 2.5e6, 3e9)] == ["128 B", "1.5 kB", "2.5 MB", "3 GB"]
    assert size_words(facts, ["nope"]) == ""


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("x", Selector("x")),
        ("+x", Selector("x", up=None)),
        ("x+", Selector("x", down=None)),
        ("2+a.b+1", Selector("a.b", 2, 1)),
        ("input 2+", Selector("input 2", down=None)),
    ],
)
def test_selectors(text, selector):
    assert parse_selector(text) == selector


@pytest.mark.parametrize("text", ["", "+", "++x", "x++", "a+b", "-x"])
def test_no_selectors(text):
    with pytest.raises(SelectorError):
        parse_selector(text)


def test_selections_of_blocks():
    plan = collecting()
    inside = selected(plan, ["test"])
    assert inside and {n.split(".")[0] for n in inside} == {"test"}
    assert "resample.2.reward" in selected(plan, ["resample.2.reward+"], unrolled=True)
    assert "resample.collect" in selected(plan, ["reward_kept", "+resample"])
    assert "resample" in names_of(plan)
    with pytest.raises(SelectorError) as raised:
        selected(plan, ["reward"])
    assert raised.value.name == "reward"


def test_a_rollout_comes_with_its_weights(plan):
    assert {"rollout", "sync_actor"} <= ops_of(plan, frozenset({"rollout"}))
    assert "sync_actor" not in ops_of(plan, frozenset({"reward"}))
