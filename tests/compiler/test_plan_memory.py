"""Plans under a budget: what leaves the device, what is chosen, and that the verifier adds it up the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rldsl.cli.options import memory
from rldsl.compiler.ops import AnyOp, FreeOp, OffloadOp, OnloadOp, Recompute, SaveOp, State, TrainOp
from rldsl.compiler.pipeline import Compiled, Options, compile_file
from rldsl.compiler.plan import MemoryPlan, Plan, to_builtins
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import DiagnosticError

EXAMPLES = Path(__file__).parents[2] / "examples"
GIB = 1 << 30
VLLM = "actor.generate : vllm(tp = 8)"


def compiled(name: str = "ppo", *settings: str, **options: Any) -> Compiled:
    return compile_file(EXAMPLES / f"{name}.rl", Options(settings=settings, **options))


def qwen(size: str, ranks: int, *layouts: str, disable: frozenset[str] = frozenset()) -> Plan:
    settings = (f"model=Qwen/Qwen2.5-{size}", "batch=256", "minibatch=64")
    return compiled("ppo", *settings, cluster=f"{ranks} x h100", layouts=layouts, disable=disable).plan


def planned(plan: Plan) -> MemoryPlan:
    assert plan.memory is not None
    return plan.memory


def moves(plan: Plan) -> list[OnloadOp | OffloadOp]:
    return [op for op in plan.ops() if isinstance(op, OnloadOp | OffloadOp)]


def small(budget: float) -> Plan:
    return compiled(cluster="1 x cpu", memory=int(budget * GIB)).plan


def position(plan: Plan, op: str) -> int:
    return [o.id for o in plan.programs[0].ops].index(op)


def test_a_plan_without_a_budget_has_no_memory() -> None:
    for options in ({}, {"cluster": "2 x cpu"}, {"cluster": "2 x gpu"}):
        plan = compiled(**options).plan
        assert plan.memory is None and not moves(plan)
        # Nothing is chosen, so nothing differs from a plan that was never asked.
        assert to_builtins(plan) == to_builtins(compiled(**options, disable=frozenset({"plan_memory"})).plan)


def test_what_is_not_known_is_said() -> None:
    plan = compiled(memory=6 * GIB).plan
    assert plan.memory is None
    assert [d.what for d in plan.dropped if d.by == "plan_memory"] == ["memory plan"]
    plan = compiled("ppo", "model=nobody/nothing", cluster="8 x h100").plan
    assert any("nobody/nothing" in d.why for d in plan.dropped if d.by == "plan_memory")


def test_where_all_fits_nothing_moves() -> None:
    plan = qwen("7B", 32)
    memory = planned(plan)
    assert not moves(plan) and memory.moved_seconds == 0 and memory.gap == 0
    assert memory.peak <= memory.budget
    assert all(state.resident for state in memory.states)
    assert {(s.model, s.state) for s in memory.states} == {
        ("actor", State.WEIGHTS), ("actor", State.OPTIMIZER), ("actor", State.ENGINE),
        ("critic", State.WEIGHTS), ("critic", State.OPTIMIZER), ("reference", State.WEIGHTS),
    }  # fmt: skip


def test_the_largest_fits_by_moves_where_the_naive_plan_does_not() -> None:
    plan = qwen("72B", 32, VLLM)
    memory = planned(plan)
    assert memory.peak <= memory.budget < memory.unplanned
    there = {(m.model, m.state) for m in moves(plan)}
    assert ("actor", State.ENGINE) in there
    # The engine's copy is made anew before it is needed: it is dropped for nothing.
    engine = [m for m in moves(plan) if m.state is State.ENGINE]
    assert [type(m) for m in engine] == [OffloadOp] and not engine[0].keep
    assert memory.moved_seconds < 0.05 * sum(memory.seconds.values())


def test_one_byte_less_than_the_least_does_not_fit() -> None:
    low, high = 1 * GIB, 6 * GIB
    while high - low > GIB >> 6:
        middle = (low + high) // 2
        try:
            small(middle / GIB)
            high = middle
        except DiagnosticError:
            low = middle
    plan = small(high / GIB)
    assert planned(plan).peak <= high
    assert {m.state for m in moves(plan)} >= {State.WEIGHTS, State.OPTIMIZER}
    with pytest.raises(DiagnosticError) as caught:
        small(low / GIB)
    (found,) = caught.value.diagnostics
    assert found.code == "RL0810" and any("the most is taken by" in note for note in found.notes)


@pytest.mark.parametrize(
    ("cluster", "most", "name"),
    [("2 x h100", 79.1, "h100"), ("2 x h100(memory = 94)", 94, "h100"), ("1 x cpu(memory = 4)", 4, "cpu")],
)
def test_a_budget_is_not_more_than_a_device_has(cluster: str, most: float, name: str) -> None:
    assert planned(compiled(cluster=cluster, memory=int(most * GIB)).plan).budget == int(most * GIB)
    with pytest.raises(DiagnosticError) as caught:
        compiled(cluster=cluster, memory=int(most * GIB) + GIB)
    (found,) = caught.value.diagnostics
    assert (found.code, found.expected) == ("RL0816", f"at most {most:.1f} GiB a rank")
    assert found.message == f"a budget of {most + 1:.1f} GiB is more than a device of `{name}` has"


def test_less_memory_is_never_faster() -> None:
    seconds = [sum(planned(small(budget)).seconds.values()) for budget in (8, 6, 5, 4, 3)]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_a_frozen_model_is_never_written_back() -> None:
    plan = small(4)
    reference = [m for m in moves(plan) if isinstance(m, OffloadOp) and m.model == "reference"]
    assert reference and not any(m.keep for m in reference)
    spec = next(s for s in planned(plan).states if s.model == "reference")
    assert not spec.dirty and not spec.resident


def test_what_changes_is_written_back_once() -> None:
    plan = small(2.65)
    for state in planned(plan).states:
        away = [m for m in moves(plan) if isinstance(m, OffloadOp) and (m.model, m.state) == (state.model, state.state)]
        # Each of these models is trained in one op of the step.
        assert sum(m.keep for m in away) == (1 if away and state.dirty else 0)


def test_models_are_saved_while_their_weights_are_there() -> None:
    plan = small(3)
    save = next(op for op in plan.ops() if isinstance(op, SaveOp))
    before = [op for op in plan.programs[0].ops[: position(plan, save.id)] if not isinstance(op, OffloadOp | FreeOp)][
        -1
    ]
    assert isinstance(before, TrainOp) and before.model == save.model


def test_where_there_is_room_nothing_is_made_again() -> None:
    train = {op.id: op for op in small(6).ops()}["actor_update"]
    assert isinstance(train, TrainOp) and train.recompute is Recompute.NONE and train.micro_batch_tokens > 0


@pytest.mark.parametrize(("name", "options"), [("recompute", 'recompute = "full"'), ("logits", "logits = 4096")])
def test_pins(name: str, options: str, tmp_path: Path) -> None:
    text = (EXAMPLES / "ppo.rl").read_text().replace("lr = actor_lr", f"lr = actor_lr, {options}")
    (tmp_path / "ppo.rl").write_text(text)
    found = compile_file(tmp_path / "ppo.rl", Options(cluster="1 x cpu", memory=8 * GIB))
    train = {op.id: op for op in found.plan.ops()}["actor_update"]
    assert isinstance(train, TrainOp)
    assert str(getattr(train, name)) in options
    assert [w.code for w in found.warnings if w.code == "RL0812"] == (["RL0812"] if name == "recompute" else [])


def test_disjoint_groups_have_budgets_of_their_own() -> None:
    layouts = ("actor.train : fsdp(dp = 4) on 0..3", "actor.generate : hf(dp = 4) on 4..7")
    layouts += tuple(f"{m} : fsdp(dp = 4) on 0..3" for m in ("critic.train", "reference.infer"))
    plan = compiled(
        "ppo", "model=Qwen/Qwen2.5-7B", "batch=256", "minibatch=64", cluster="8 x h100", layouts=layouts
    ).plan
    memory = planned(plan)
    groups = {(s.model, s.state): s.group for s in memory.states}
    assert groups["actor", State.ENGINE] != groups["actor", State.WEIGHTS]
    told = {(o.op, o.rank): o for o in memory.ops}
    # Those that train hold no engine, those that generate nothing else.
    assert told["rollout", 4].resident == next(s.bytes for s in memory.states if s.state is State.ENGINE)
    assert told["actor_update", 0].resident < sum(s.bytes for s in memory.states)
    assert ("rollout", 0) not in told


# The verifier.


def damaged(plan: Plan, ops: tuple[AnyOp, ...]) -> list[str]:
    (program,) = plan.programs
    return [d.message for d in verify_plan(replace(plan, programs=(replace(program, ops=ops),)))]


def test_the_verifier_finds_what_is_wrong_with_moves() -> None:
    plan = small(3)
    ops = plan.programs[0].ops
    assert verify_plan(plan) == []
    for index, op in enumerate(ops):
        if isinstance(op, OnloadOp | OffloadOp):
            without = ops[:index] + ops[index + 1 :]
            assert damaged(plan, without), f"without {op.id}"
            assert damaged(plan, (*ops[:index], replace(op, bytes=op.bytes - 1), *ops[index + 1 :]))
        if isinstance(op, OffloadOp) and op.keep:
            found = damaged(plan, (*ops[:index], replace(op, keep=False), *ops[index + 1 :]))
            assert any("older version" in problem for problem in found), op.id


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, budget=m.peak - 1),
        lambda m: replace(m, peak=m.peak + 1000),
        lambda m: replace(m, states=m.states[1:]),
        lambda m: replace(m, states=(*m.states, m.states[0])),
        lambda m: replace(m, ops=m.ops[1:] if m.ops[0].resident == 0 else tuple(o for o in m.ops if o.op != m.peak_op)),
        lambda m: replace(m, states=(replace(m.states[0], resident=not m.states[0].resident), *m.states[1:])),
        lambda m: replace(m, states=(replace(m.states[0], dirty=not m.states[0].dirty), *m.states[1:])),
        lambda m: replace(m, ops=(replace(m.ops[0], workspace=m.ops[0].workspace + 1), *m.ops[1:])),
    ],
)
def test_the_verifier_adds_up(change: object) -> None:
    plan = small(3)
    assert callable(change)
    assert verify_plan(replace(plan, memory=change(planned(plan))))


def test_a_plan_may_leave_its_phases_out() -> None:
    """What states there must be follows from its ops."""
    for plan in (small(3), qwen("72B", 32, VLLM), compiled("distill", cluster="1 x cpu", memory=6 * GIB).plan):
        memory = planned(plan)
        bare = replace(plan, phases=())
        assert plan.phases and verify_plan(bare) == []
        for state in memory.states:
            fewer = tuple(s for s in memory.states if s is not state)
            whole, said = (verify_plan(replace(p, memory=replace(memory, states=fewer))) for p in (plan, bare))
            assert said == whole and any(f"the {state.state} of `{state.model}`" in d.message for d in said)


def test_moves_without_a_memory_plan_are_refused() -> None:
    plan = small(3)
    assert any("has no memory" in d.message for d in verify_plan(replace(plan, memory=None)))


def test_sizes_on_the_command_line() -> None:
    assert [memory(t) for t in ("6GiB", "600MiB", "1.5GB", "3 MB")] == [6 * GIB, 600 << 20, 15 * 10**8, 3 * 10**6]
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--memory", type=memory)
    for wrong in ("6", "GiB", "-1GiB", "six GiB", "infGiB", "nanMB"):
        with pytest.raises(argparse.ArgumentError, match=f"`{wrong}` is no size such as 6GiB"):
            parser.parse_args([f"--memory={wrong}"])
