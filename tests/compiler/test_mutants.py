"""Damage of every kind is refused, or shown to change nothing; what nobody damaged is not refused."""

from __future__ import annotations

import json
import random

import pytest
from msgspec.structs import replace

from bench.damage import KINDS, Damage
from bench.equal_plans import why_equal
from bench.mutants import ROOT, TEXT_KINDS, Tally, judge, wholes
from rldsl.compiler.ops import MetricOp, Reduction, ReshardOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan, Program, plan_hash, to_builtins
from rldsl.compiler.plan_io import loads
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import DiagnosticError

EXAMPLES = ROOT / "examples"
# A loop that collects; a validation, outputs and metrics; a loop that carries; two models; a critic; older weights;
# two heads on one trunk.
FILES = tuple(
    EXAMPLES / f"{n}.rl"
    for n in ("dapo", "validated", "tools", "debate", "ppo", "off_policy", "toy/ppo", "ppo_reward_model")
)
EACH = 5
HARMLESS = {
    "a field freed at the end", "a rank class cut in two", "another id on all ranks", "another reason",
    "something more that was dropped", "another source", "a group under another name",
}  # fmt: skip


def test_there_are_enough_kinds() -> None:
    assert len(KINDS.keys() - HARMLESS) >= 30 and KINDS.keys() >= HARMLESS


@pytest.mark.parametrize("whole", wholes(FILES), ids=lambda w: w.name)
def test_whole_plans_pass(whole) -> None:
    assert verify_plan(whole.plan, whole.signatures) == []
    assert verify_plan(whole.plan) == []


@pytest.mark.parametrize("kind", [*KINDS, *TEXT_KINDS])
def test_damage_is_refused_or_changes_nothing(kind: str) -> None:
    rng, tally = random.Random(kind), Tally()
    for _ in range(EACH):
        while not judge(kind, rng.choice(wholes(FILES)), rng, tally):
            pass
    assert tally.made == EACH and not tally.missed
    if kind in HARMLESS:
        assert not tally.refused


@pytest.mark.parametrize(
    "kind",
    ["an op dropped on all ranks", "an op dropped on one rank class", "a weight transfer dropped", "a batch off by one",
     "another number of samples", "another field in a reshard", "another staleness",
     "a guard that differs between rank classes", "a collection taken before it is filled", "a field of another type",
     "running log-probs for old ones", "a group of another size", "another node of an op", "a program backwards"],
)  # fmt: skip
def test_equality_sees_the_difference(kind: str) -> None:
    """What excuses a mutant is no rubber stamp."""
    rng = random.Random(kind)
    for whole in wholes(FILES):
        made = KINDS[kind](Damage(whole.plan, rng))
        # Ranks with one op, or none, have a program that is the same from both ends.
        assert made in (None, whole.plan) or why_equal(whole.plan, made) is None


def test_equality_sees_that_ranks_wait_for_ever() -> None:
    trains = ("critic_update", "actor_update")
    whole, first, second = next(
        (w, *found)
        for w in wholes(FILES)
        if len(w.plan.programs) > 1 and len(found := [o for o in w.plan.programs[1].ops if o.id in trains]) == 2
    )
    crossed = Damage(whole.plan, random.Random(0)).swapped(first, second, whole.plan.programs[1])
    assert crossed is not None and why_equal(whole.plan, crossed) is None
    assert any("wait for ever" in d.message for d in verify_plan(crossed))


def test_a_number_is_the_same_on_any_ranks_that_hold_its_rows() -> None:
    """Where a move leaves copies of what is logged both ends may log it; before the move only the source may."""
    layouts = ("actor.train : fsdp(dp = 4) on 0..3", "actor.generate : hf(dp = 2) on 4..5", "resample.reward on 4..5")
    plan = compile_file(EXAMPLES / "toy" / "dapo.rl", Options(world_size=6, layouts=layouts)).plan
    metric = next(op for op in plan.ops() if isinstance(op, MetricOp) and op.reads == ("resample.2.score",))
    move = next(op for op in plan.ops() if isinstance(op, ReshardOp) and "resample.2.score" in op.keeps)
    assert (metric.group, move.source) == (move.target, "ranks4-5")

    def logged(group: str, behind: str) -> Plan:
        made, programs = replace(metric, group=group), []
        for program in plan.programs:
            ops = [op for op in program.ops if op.id != metric.id]
            at = next(i for i, op in enumerate(ops) if op.id == behind) + 1 if _runs(plan, program, group) else 0
            programs.append(replace(program, ops=(*ops[:at], *([made] if at else []), *ops[at:])))
        return replace(plan, programs=tuple(programs))

    elsewhere = logged(move.source, move.id)
    assert why_equal(plan, elsewhere) == "the same but for which ranks log a number" and not verify_plan(elsewhere)
    moves = [op for op in plan.ops() if isinstance(op, ReshardOp) and "resample.2.score" in op.fields]
    leaves = next(op for op in moves if op.source == move.source and "resample.2.score" not in op.keeps)
    assert why_equal(plan, logged(move.source, leaves.id)) is None
    maximum = Damage(elsewhere, random.Random(0)).changed(metric, reduction=Reduction.MAX)
    assert maximum is not None and why_equal(plan, maximum) is None


def _runs(plan: Plan, program: Program, group: str) -> bool:
    return plan.group(group).index(program.first, plan.world_size or 1) is not None


def _places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


STRANGE = (
    None,
    True,
    -1,
    0,
    7,
    1e300,
    float("nan"),
    "",
    "ghost",
    "\x00",
    "../..",
    "f32[sample]",
    [],
    {},
    [[]],
    1 << 80,
)


@pytest.mark.parametrize("seed", range(8))
def test_any_json_gets_a_verdict(seed: int) -> None:
    """What a stranger may write gives diagnostics, whatever it is: never a traceback."""
    rng = random.Random(seed)
    for whole in rng.sample(wholes(FILES), 3):
        text = json.dumps(to_builtins(whole.plan))
        places = [p for p in _places(json.loads(text)) if p]
        for _ in range(40):
            body = json.loads(text)
            *before, last = rng.choice(places)
            inside = body
            for key in before:
                inside = inside[key]
            if isinstance(inside, dict) and rng.random() < 0.3:
                del inside[last]
            else:
                inside[last] = rng.choice(STRANGE)
            try:
                plan = loads(json.dumps(body | {"hash": plan_hash(body)}), "strange.json")
            except DiagnosticError:
                continue
            assert all(d.code == "RL0505" for d in verify_plan(plan, whole.signatures))
