"""The verifier accepts what the compiler makes and refuses damage."""

import functools
import sys
from collections.abc import Callable

import msgspec
import pytest

from rldsl.compiler.ops import AnyOp, FreeOp, Guard, ReshardOp, SyncKind, SyncWeightsOp
from rldsl.compiler.plan import Group, Plan, Program
from rldsl.compiler.verify import InvalidModuleError, verify_module, verify_plan
from tests.compiler.programs import PPO, PROGRAM, compiled

TWO_LAYOUTS = PROGRAM + "deploy {\n  actor.train : fsdp(dp = 4)\n  actor.generate : hf(dp = 2)\n}\n"
Ops = tuple[AnyOp, ...]


@pytest.mark.parametrize("text", [PROGRAM, PPO, TWO_LAYOUTS])
@pytest.mark.parametrize("kl_coef", ["0.0", "0.1"])
def test_compiled_plans_pass(text: str, kl_coef: str) -> None:
    assert verify_plan(compiled(text, f"kl_coef={kl_coef}").plan) == []


def with_ops(plan: Plan, change: Callable[[Ops], Ops], programs: slice = slice(None)) -> Plan:
    chosen = plan.programs[programs]
    made = tuple(msgspec.structs.replace(p, ops=change(p.ops)) if p in chosen else p for p in plan.programs)
    return msgspec.structs.replace(plan, programs=made)


def drop(op_id: str) -> Callable[[Ops], Ops]:
    return lambda ops: tuple(o for o in ops if o.id != op_id)


def move_last(op_id: str) -> Callable[[Ops], Ops]:
    return lambda ops: (*(o for o in ops if o.id != op_id), *(o for o in ops if o.id == op_id))


def swap(a: str, b: str) -> Callable[[Ops], Ops]:
    def change(ops: Ops) -> Ops:
        by_id = {o.id: o for o in ops}
        other = {a: b, b: a}
        return tuple(by_id[other.get(o.id, o.id)] for o in ops)

    return change


def edit(op_id: str, **fields: object) -> Callable[[Ops], Ops]:
    return lambda ops: tuple(msgspec.structs.replace(o, **fields) if o.id == op_id else o for o in ops)


FIRST, SECOND = slice(0, 1), slice(1, 2)
DAMAGE: dict[str, Callable[[Plan], Plan]] = {
    "an op dropped": lambda p: with_ops(p, drop("reward")),
    "an op dropped on one rank": lambda p: with_ops(p, drop("update"), SECOND),
    "a collective dropped on one rank": lambda p: with_ops(p, drop("sync_weights:actor"), FIRST),
    "a weight transfer dropped": lambda p: with_ops(p, drop("sync_weights:actor")),
    "a weight transfer too late": lambda p: with_ops(p, move_last("sync_weights:actor")),
    "two collectives swapped on one rank": lambda p: with_ops(p, swap("sync_weights:actor", "update"), SECOND),
    "a free too early": lambda p: with_ops(p, swap("reward", "free:reward")),
    "a free dropped": lambda p: with_ops(p, drop("free:update")),
    "a field freed twice": lambda p: with_ops(p, lambda ops: (*ops, FreeOp(id="again", fields=("tokens",)))),
    "a reshard dropped": lambda p: with_ops(p, drop("reshard:reward:ranks0-1")),
    "a reshard on one rank only": lambda p: with_ops(p, drop("reshard:reward:ranks0-1"), FIRST),
    "a wrong group": lambda p: with_ops(p, edit("reward", group="ranks0-1")),
    "a group that is not there": lambda p: with_ops(p, edit("reward", group="nowhere")),
    "a group of another size": lambda p: msgspec.structs.replace(
        p, groups=(p.groups[0], Group(name="ranks0-1", ranks=((0, 4),)))
    ),
    "a model that is not there": lambda p: with_ops(p, edit("update", model="ghost")),
    "a function that is not there": lambda p: with_ops(p, edit("reward", function="ghost")),
    "a field that is not there": lambda p: with_ops(p, edit("advantage", outputs=("ghost",))),
    "a result nobody reads": lambda p: with_ops(p, edit("update", args=())),
    "an op that differs between ranks": lambda p: with_ops(p, edit("update", lr=1.0), SECOND),
    "a rank without a program": lambda p: msgspec.structs.replace(p, programs=p.programs[:1]),
    "ranks covered twice": lambda p: msgspec.structs.replace(p, programs=(p.programs[0], *p.programs)),
    "no program": lambda p: msgspec.structs.replace(p, programs=()),
    "an empty rank class": lambda p: msgspec.structs.replace(
        p, programs=(*p.programs, Program(first=4, last=4, ops=()))
    ),
    "a world that does not divide": lambda p: msgspec.structs.replace(p, divides=6),
    "an op twice": lambda p: with_ops(p, lambda ops: (*ops, ops[0])),
    "weights changed before the rollout": lambda p: with_ops(p, swap("sync_weights:actor", "update")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_caught(name: str) -> None:
    plan = compiled(TWO_LAYOUTS).plan
    damaged = DAMAGE[name](plan)
    assert damaged != plan, "the damage did nothing"
    found = verify_plan(damaged)
    assert found and all(d.code == "RL0505" for d in found)


def test_crossed_collectives_are_named() -> None:
    plan = with_ops(compiled(TWO_LAYOUTS).plan, swap("sync_weights:actor", "update"), SECOND)
    assert any("wait for ever" in d.message for d in verify_plan(plan))


def test_module_verifier_names_the_pass() -> None:
    module = compiled(PROGRAM).module
    ops = (*module.ops, SyncWeightsOp(id="update", model="actor", sync="local"))
    with pytest.raises(InvalidModuleError, match="after my_pass"):
        verify_module(msgspec_replace(module, ops=ops), "my_pass")


def msgspec_replace(module, **changes):
    from dataclasses import replace

    return replace(module, **changes)


# -- each proof by itself: these plans say nothing of their graph, as those of another tool need not

BLOCKS = """\
algorithm blocks {
  model actor  : policy = scratch(; alphabet = "01")
  model critic : value  = shared actor
  model judge  : reward = hf("package:judge")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  loop more max 3 collect tokens, response_mask, rollout_logp, completions, answers where useful {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score; group = 4) -> useful
    metric share = mean(useful)
  }
  node again     = actor.generate(completions; max_new_tokens = 4, staleness = 1) -> t2, m2, l2, c2
  node reward    = compute exact_match(c2, answers) -> score
  node rate      = judge.score(tokens, response_mask) -> rating
  node values    = critic.value(tokens, response_mask) -> values
  node kl        = compute kl_penalty(score, response_mask, rollout_logp; kl_coef = 0.0) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node learn     = critic.train value_loss(tokens, response_mask, values, returns) with lr = 0.001
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr = 0.001
  metric quality = mean(rating)
  metric far = mean(l2, m2)
  output rows = completions, c2, score with every = 5
  validate test every 10 {
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 4
    node rollout = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    metric accuracy = mean(score)
  }
}
deploy {
  cluster 4 x cpu
  actor.generate : hf(dp = 2)
}
"""


@functools.cache
def bare() -> Plan:
    return msgspec.structs.replace(compiled(BLOCKS).plan, depths={}, edges=(), roles={})


def spec(what: str, name: str, **fields: object) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        made = (msgspec.structs.replace(d, **fields) if d.name == name else d for d in getattr(plan, what))
        return msgspec.structs.replace(plan, **{what: tuple(made)})

    return change


def ops(change: Callable[[Ops], Ops], programs: slice = slice(None)) -> Callable[[Plan], Plan]:
    return lambda plan: with_ops(plan, change, programs)


def move(op_id: str, before: str) -> Callable[[Ops], Ops]:
    def change(ops: Ops) -> Ops:
        moved = tuple(o for o in ops if o.id == op_id)
        rest = [o for o in ops if o.id != op_id]
        return tuple(x for o in rest for x in ((*moved, o) if o.id == before else (o,)))

    return change


def arg(op_id: str, param: str, **fields: object) -> Callable[[Ops], Ops]:
    def change(ops: Ops) -> Ops:
        return tuple(
            msgspec.structs.replace(
                o, args=tuple(msgspec.structs.replace(a, **fields) if a.param == param else a for a in o.args)
            )
            if o.id == op_id
            else o
            for o in ops
        )

    return change


PROOFS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "a mask of other tokens": (ops(edit("values", response_mask="m2")), "tokens of different sequences"),
    "log-probs of another rollout": (ops(arg("kl", "old_logp", field="l2")), "tokens of different sequences"),
    "rows of other prompts": (ops(arg("reward", "answers", field="test.answers")), "rows of different prompts"),
    "text for tokens": (ops(edit("rate", tokens="completions")), "`completions` is text[sample], and its `tokens`"),
    "a number that trains on too many": (ops(edit("update", batch=16)), "trains on 16 prompts, but its rows are of 8"),
    "a boundary within a class": (spec("groups", "ranks0-1", ranks=((0, 1),)), "in the middle of a rank class"),
    "a group that is not there on any number of ranks": (
        lambda p: msgspec.structs.replace(p, world_size=None), "does not fix how many"
    ),
    "a size in the layout": (ops(edit("reshard:reward:ranks0-1", batch=4)), "lays `c2` out as of 4 prompts"),
    "a use after training": (ops(move("update", "values")), "uses `critic` after `update` has changed its weights"),
    "a transfer of older weights first": (
        ops(move("sync_weights:actor:1", "again")), "the transfer of this step precedes it"
    ),
    "a transfer of older weights last": (ops(move("sync_weights:actor:1", "save:actor")), "no transfer follows it"),
    "a transfer now and then": (ops(edit("sync_weights:actor:1", guard=Guard(every=2))), "older than a step"),
    "a transfer that some rollouts miss": (
        ops(edit("sync_weights:actor", guard=Guard(every=10))), "may run when `sync_weights:actor` does not"
    ),
    "a collective of local weights": (ops(edit("sync_weights:actor", sync=SyncKind.LOCAL)), "it is all_gather"),
    "two rollouts of one node": (ops(edit("again", node="test.rollout")), "draws the same random numbers"),
    "a part of the weights": (ops(edit("learn", group="ranks0-1")), "sharded over"),
    "a frozen model trained": (spec("models", "critic", trainable=False), "which is frozen"),
    "running log-probs twice": (
        ops(lambda o: arg("update", "old_logp", field=None, current=True)(edit("update", epochs=2)(o))), "more than one step"
    ),
    "running log-probs later": (ops(arg("update", "old_logp", field=None, current=True)), "after `learn`"),
    "a guard that a reader lacks": (ops(edit("test.reward", guard=None)), "it is there in every 10th step"),
    "a wait that others do not know of": (
        ops(edit("test.accuracy", guard=Guard(until="less"))), "`less`, which nothing has begun to fill"
    ),
    "a wait after the end": (ops(edit("quality", guard=Guard(until="more"))), "which was taken already"),
    "rounds that collide": (ops(edit("load:more.2.prompts", round=0)), "not one for each of 3 rounds"),
    "a validation that reads on": (ops(edit("load:test.prompts", first=False)), "reads the first rows each time"),
    "a round without its count": (ops(edit("more.2.collect", batch=4)), "on other terms"),
    "prompts lost": (ops(edit("more.1.collect", guard=Guard(every=2))), "prompts would be lost"),
    "a filter of samples": (ops(edit("more.1.collect", where="more.1.score")), "what it asks is bool[prompt]"),
    "groups of another size": (ops(edit("more.1.spread", params={"group": 2})), "works on groups of 2"),
    "prompt rows of samples": (ops(edit("more.1.spread", params={})), "is no function of groups"),
    "a head on a head": (spec("models", "critic", shares="judge"), "cannot share the trunk"),
    "a head on nothing": (spec("models", "critic", shares="ghost"), "which is not there"),
    "a place outside": (ops(edit("save:actor", path="../x")), "outside the run folder"),
    "nothing kept": (ops(drop("save:actor")), "is trained and never saved"),
    "saved too early": (ops(move("save:actor", "update")), "after `save:actor` has saved"),
    "a move for nothing": (
        ops(lambda o: (*o, ReshardOp(id="r", fields=("score",), source="world", target="world", batch=8))), "where they lie"
    ),
    "a loss that is none": (ops(edit("update", loss="gae")), "which is no loss"),
    "a setting that is none": (ops(edit("kl", params={"beta": 1.0})), "has no setting `beta`"),
    "too few results": (ops(edit("advantage", outputs=("advantages",))), "has 1 results"),
}  # fmt: skip


def test_a_bare_plan_passes() -> None:
    assert verify_plan(bare()) == [] and len(bare().programs) == 2


@pytest.mark.parametrize("name", PROOFS)
def test_each_proof_stands_by_itself(name: str) -> None:
    damage, message = PROOFS[name]
    found = [d.message for d in verify_plan(damage(bare()))]
    assert any(message in m for m in found), found


def test_time_is_linear_in_ops() -> None:
    """Four times the rounds are about four times the steps of the proof, counted rather than timed."""

    def steps(rounds: int) -> int:
        plan = compiled(BLOCKS.replace("max 3", f"max {rounds}")).plan
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(trace)
        try:
            assert verify_plan(plan) == []
        finally:
            sys.setprofile(None)
        return count

    assert steps(80) < 4.5 * steps(20)
