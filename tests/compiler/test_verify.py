"""The verifier accepts what the compiler makes and refuses damage."""

from collections.abc import Callable

import msgspec
import pytest

from rldsl.compiler.plan import AnyOp, FreeOp, Group, Plan, Program, SyncWeightsOp
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
    "a reshard dropped": lambda p: with_ops(p, drop("reshard:reward:dp2")),
    "a reshard on one rank only": lambda p: with_ops(p, drop("reshard:reward:dp2"), FIRST),
    "a wrong group": lambda p: with_ops(p, edit("reward", group="dp2")),
    "a group that is not there": lambda p: with_ops(p, edit("reward", group="nowhere")),
    "a group of another size": lambda p: msgspec.structs.replace(p, groups=(p.groups[0], Group(name="dp2", size=4))),
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
