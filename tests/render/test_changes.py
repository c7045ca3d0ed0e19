"""What is a change between two plans, and how changes are drawn."""

import msgspec
import pytest

from rldsl.compiler.ops import Guard, Reason, SyncKind
from rldsl.compiler.plan import Dropped, Program
from rldsl.render.changes import Kind, Side, changes
from rldsl.render.diff import DiffView
from rldsl.render.order import moved
from tests.compiler.programs import PPO, compiled
from tests.render.loops import collecting, talking
from tests.render.test_timeline import split


def edited(plan, name, **values):
    """The plan with the op `name` changed."""
    ops = tuple(msgspec.structs.replace(op, **values) if op.id == name else op for op in plan.programs[0].ops)
    return msgspec.structs.replace(plan, programs=(Program(ops=ops),))


def without(plan, name):
    return msgspec.structs.replace(plan, programs=(Program(ops=tuple(o for o in plan.ops() if o.id != name)),))


def reordered(plan, *names):
    """The plan with the ops `names` in this order, in the places that they have."""
    ops = {op.id: op for op in plan.ops()}
    following = iter(names)
    order = [ops[next(following)] if op.id in names else op for op in plan.ops()]
    return msgspec.structs.replace(plan, programs=(Program(ops=tuple(order)),))


def found(a, b):
    return [(c.part, c.kind.value, c.name, c.what, c.before, c.after) for c in changes(Side(a), Side(b))]


@pytest.mark.parametrize("made", [collecting, talking])
def test_nothing_changes_by_itself(made):
    assert found(made(), made()) == []


def test_order_at_one_depth_spans_and_reasons_mean_nothing(plan):
    other = reordered(plan, "values", "ref", "reward")
    other = edited(other, "ref", because=(Reason(by="order_equal_depths", why="anything"),))
    source = msgspec.structs.replace(plan.source, path="elsewhere.rl", spans={"ref": (1, 1)})
    parameters = dict(reversed(plan.parameters.items()))
    models = tuple(reversed(plan.models))
    other = msgspec.structs.replace(other, source=source, parameters=parameters, models=models)
    assert found(plan, other) == []


def test_what_runs_in_the_background():
    off, on = (compiled(PPO, disable=d).plan for d in (frozenset({"overlap_computes", "prefetch_loads"}), frozenset()))
    said = found(off, on)
    assert ("inputs", "changed", "answers, prompts", "read ahead", None, "yes") in said
    assert [s for s in said if s[0] == "nodes"] == [("nodes", "changed", "reward", "background", "false", "true")]


def test_ops_that_move(plan):
    other = reordered(plan, "rollout", "sync_actor")
    assert moved(plan, other)
    late = list(plan.programs[0].ops)
    late.append(late.pop(1))
    after = msgspec.structs.replace(plan, programs=(Program(ops=tuple(late)),))
    assert found(plan, after) == [
        ("schedule", "changed", "weights of actor", "runs", "behind input of answers, prompts", "behind save of actor")
    ]


@pytest.mark.parametrize(
    ("name", "values", "change"),
    [
        ("rollout", {"n": 4}, ("nodes", "changed", "rollout", "n", "8", "4")),
        ("rollout", {"guard": Guard(every=2)}, ("nodes", "changed", "rollout", "when", None, "every 2 steps")),
        ("advantage", {"params": {"gamma": 0.9, "lam": 0.95}}, ("nodes", "changed", "advantage", "gamma", "1", "0.9")),
        ("reward", {"outputs": ("points",)}, ("nodes", "changed", "reward", "writes result 1", "score", "points")),
        (
            "sync_actor",
            {"sync": SyncKind.LOCAL},
            ("weights", "changed", "actor to its sampler", "", "all-gather over all ranks", "local over all ranks"),
        ),
        ("save_actor", {"every": 5}, ("weights", "changed", "actor saved", "every", "0", "5")),
        ("input_prompts", {"batch": 8}, ("inputs", "changed", "answers, prompts", "prompts", "16", "8")),
    ],
)
def test_changes(plan, name, values, change):
    assert change in found(plan, edited(plan, name, **values))


def test_moves_are_told_once(plan):
    assert ("data movement", "changed", "tokens", "", "local", "all-to-all two to world") in found(plan, split(plan))


def test_nodes_that_come_and_go(plan):
    less = without(plan, "update_critic")
    less = msgspec.structs.replace(
        less, dropped=(Dropped(what="update_critic", by="fold_conditions", why="its condition is false"),)
    )
    (gone,) = changes(Side(plan), Side(less))
    assert (gone.kind, gone.name, gone.why) == (
        Kind.REMOVED,
        "update_critic",
        "its condition is false (fold_conditions)",
    )
    (come,) = changes(Side(less), Side(plan))
    assert (come.kind, come.why) == (Kind.ADDED, "before: its condition is false (fold_conditions)")


def test_rounds_of_a_loop_are_one_node():
    plan = collecting()
    ops = tuple(op for op in plan.ops() if not (op.node or "").startswith("resample.3."))
    fewer = msgspec.structs.replace(plan, programs=(Program(ops=ops),))
    assert ("nodes", "changed", "resample.rollout", "rounds", "3", "2") in found(plan, fewer)


def test_code_is_compared_by_what_the_side_sees(plan):
    a, b = (
        msgspec.structs.replace(plan, functions=(msgspec.structs.replace(plan.functions[0], file="mine.py", sha256=s),))
        for s in ("1" * 64, "2" * 64)
    )
    assert [c.part for c in changes(Side(a), Side(b))] == ["functions"]
    assert changes(Side(a, lambda _: "same"), Side(b, lambda _: "same")) == ()


@pytest.mark.parametrize("width", [80, 120])
def test_drawn(plan, width, drawn, golden):
    other = split(edited(plan, "reward", function="exact_match"))
    other = msgspec.structs.replace(
        other, parameters={**plan.parameters, "clip": 0.3, "extra": True}, models=plan.models[:2]
    )
    text = drawn(DiffView("a.rl", "b.json", changes(Side(plan), Side(other))), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"diff-{width}.txt", text)


def test_no_change_is_one_line(plan, drawn):
    assert drawn(DiffView("a.rl", "a.py", ()), 80) == "a.rl -> a.py: the same in meaning\n"
