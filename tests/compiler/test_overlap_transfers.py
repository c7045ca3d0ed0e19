"""Transfers of weights in the background: which, until when, and what the verifier, clocks and budgets say of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.cost.plan_time import Assumed, PlanTime, plan_time
from rldsl.compiler.ops import (
    AnyOp,
    FreeOp,
    GenerateOp,
    OffloadOp,
    OnloadOp,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import OpMemory, Plan
from rldsl.compiler.verify import verify_plan
from tests.compiler.programs import EXAMPLES, PPO, compiled

LATE = PPO.replace("max_new_tokens", "staleness = 1, max_new_tokens")
SYNC = "sync_weights:actor:1"
WAIT = f"wait:{SYNC}"
OFF = frozenset({"overlap_transfers"})
AGAIN = frozenset({"elide_old_logp"})
APART = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3")


def ids(plan: Plan, program: int = 0) -> list[str]:
    return [op.id for op in plan.programs[program].ops if not isinstance(op, FreeOp)]


def begun(plan: Plan) -> list[str]:
    return [op.id for op in plan.ops() if isinstance(op, SyncWeightsOp) and op.background]


def op_of(plan: Plan, name: str) -> AnyOp:
    return next(op for op in plan.ops() if op.id == name)


def off_policy(disable: frozenset[str] = AGAIN, **options: object) -> Plan:
    return compile_file(EXAMPLES / "off_policy.rl", Options(disable=disable, **options)).plan  # type: ignore[arg-type]


def test_it_runs_beside_all_until_its_weights_change() -> None:
    """Also through the training of another model."""
    plan = compiled(LATE).plan
    order = ids(plan)
    assert order.index("rollout") + 1 == order.index(SYNC)
    inside = order[order.index(SYNC) + 1 : order.index(WAIT)]
    assert {"old", "ref", "baseline", "critic_update"} <= {*inside} and order[order.index(WAIT) + 1] == "actor_update"
    sync, wait = op_of(plan, SYNC), op_of(plan, WAIT)
    assert isinstance(wait, WaitOp) and wait.begun == SYNC and wait.holds == () and wait.by == "overlap_transfers"
    assert wait.because[-1].why == "`actor_update` changes the weights that are on their way"
    assert sync.because[-1].by == "overlap_transfers"
    assert sync.because[-1].why.endswith("need not be there before `actor_update`")
    assert begun(compiled(LATE, disable=OFF).plan) == [] and WAIT not in ids(compiled(LATE, disable=OFF).plan)


def test_on_ranks_of_their_own_each_end_waits_where_it_has_to() -> None:
    plan = off_policy(layouts=APART)
    train, generate = ids(plan), ids(plan, 1)
    assert train[0] == SYNC and train.index("old") < train.index(WAIT) == train.index("update") - 1
    assert generate[-3:-1] == [SYNC, next(i for i in generate if i.startswith("reshard"))] and generate[-1] == WAIT


REF = """algorithm far {
  model actor     : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 4, staleness = 1) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages, ref_logp; kl_coef = 0.1) with lr = 0.01
}
"""


def test_where_nothing_of_a_model_runs_beside_it_stays(tmp_path: Path) -> None:
    assert begun(off_policy(frozenset())) == []
    (tmp_path / "far.rl").write_text(REF)
    for rank, expected in ((4, []), (1, [SYNC])):  # a forward elsewhere is none beside it
        layouts = (*APART, f"reference.infer : fsdp() on {rank}")
        plan = compile_file(tmp_path / "far.rl", Options(layouts=layouts, world_size=5)).plan
        assert begun(plan) == expected


def test_one_for_rollouts_of_this_step_stays() -> None:
    """It stands right before them; so does one of weights that this rank has anyway."""
    assert begun(compiled(PPO).plan) == []
    assert begun(compile_file(EXAMPLES / "ppo.rl", Options(cluster="1 x cpu")).plan) == []


def test_among_gpus_only_a_copy_travels_beside() -> None:
    """Two communicators of NCCL at once may wait for each other."""
    assert begun(off_policy(cluster="4 x cpu")) == [SYNC]
    assert begun(off_policy(cluster="4 x h100")) == []
    alone = off_policy(cluster="1 x h100")
    assert begun(alone) == [SYNC]
    sync = op_of(alone, SYNC)
    assert isinstance(sync, SyncWeightsOp) and sync.sync is SyncKind.COPY


def test_a_reward_is_beside_the_forward_not_beside_what_is_beside() -> None:
    plan = off_policy()
    assert op_of(plan, "reward").because[-1].why == "runs on the host beside `old`: not needed before `advantage`"
    held = off_policy(AGAIN | OFF)
    assert f"beside `{SYNC}`, `old`" in op_of(held, "reward").because[-1].why


# -- the verifier, of plans that no compiler of ours wrote


def with_ops(plan: Plan, *ops: AnyOp) -> Plan:
    return msgspec.structs.replace(plan, programs=(msgspec.structs.replace(plan.programs[0], ops=ops),))


def said(plan: Plan, *ops: AnyOp) -> str:
    return " ".join(d.message for d in verify_plan(with_ops(plan, *ops)))


def moved(plan: Plan, name: str, before: str) -> tuple[AnyOp, ...]:
    ops = [op for op in plan.programs[0].ops if op.id != name]
    at = next(i for i, op in enumerate(ops) if op.id == before)
    return (*ops[:at], op_of(plan, name), *ops[at:])


def changed(plan: Plan, name: str, **fields: object) -> tuple[AnyOp, ...]:
    return tuple(msgspec.structs.replace(op, **fields) if op.id == name else op for op in plan.programs[0].ops)


def test_a_training_beside_what_it_changes_is_refused() -> None:
    plan = off_policy()
    assert f"`update` changes weights of `actor` while `{SYNC}` transfers them" in said(
        plan, *moved(plan, WAIT, "save:actor")
    )


def test_a_rollout_beside_what_writes_its_weights_is_refused() -> None:
    plan = compile_file(EXAMPLES / "grpo.rl", Options()).plan
    sync = next(op for op in plan.ops() if isinstance(op, SyncWeightsOp))
    wait = WaitOp(id="wait", node=sync.node, begun=sync.id, holds=())
    rollout = next(op for op in plan.ops() if isinstance(op, GenerateOp))
    first = [msgspec.structs.replace(o, background=True) if o is sync else o for o in plan.programs[0].ops]
    late = [each for o in first for each in ((o, wait) if o is rollout else (o,))]
    assert f"`rollout` generates with `actor` while `{sync.id}` writes its weights" in said(plan, *late)
    early = [each for o in first for each in ((o, wait) if o.id == sync.id else (o,))]
    assert said(plan, *early) == ""


def test_what_is_not_waited_for_or_brings_nothing_is_refused() -> None:
    plan = off_policy()
    assert f"nothing waits for `{SYNC}`" in said(plan, *(o for o in plan.programs[0].ops if o.id != WAIT))
    assert "does not run in the background there" in said(plan, *changed(plan, SYNC, background=False))
    shares = changed(plan, SYNC, sync=SyncKind.LOCAL)
    assert "shares the model's own weights" in said(plan, *shares)
    frozen = [o for o in plan.programs[0].ops if not isinstance(o, TrainOp)]
    assert "runs in the background, and nothing trains `actor`" in said(plan, *frozen)


def test_a_move_of_nothing_is_refused() -> None:
    plan = off_policy(layouts=APART)
    ops = [msgspec.structs.replace(o, fields=()) if o.id.startswith("reshard") else o for o in plan.programs[0].ops]
    assert "names no field" in said(plan, *ops)


GIB = 1 << 30


def test_states_stay_where_they_are_while_they_travel() -> None:
    plan = off_policy(cluster="1 x cpu", memory=8 * GIB)
    for model_state in ((State.WEIGHTS, 0), (State.ENGINE, 1)):
        state, age = model_state
        move = {"model": "actor", "state": state, "bytes": 1, "staleness": age}
        away, back = OffloadOp(id="away", **move), OnloadOp(id="back", **move)  # type: ignore[arg-type]
        ops = [each for o in plan.programs[0].ops for each in ((away, back, o) if o.id == "old" else (o,))]
        assert f"`away` moves the {state} of `actor` while `{SYNC}` transfers weights" in said(plan, *ops)


# -- time and memory


@pytest.mark.parametrize("layouts", [(), APART])
def test_predicted_seconds_count_it_beside(layouts: tuple[str, ...]) -> None:
    on, off = (off_policy(AGAIN | more, cluster="4 x cpu", layouts=layouts) for more in (frozenset(), OFF))
    times = [plan_time(plan, Assumed(prompt_tokens=400)) for plan in (on, off)]
    assert all(isinstance(each, PlanTime) for each in times)
    beside, held = (each for each in times if isinstance(each, PlanTime))
    transfer = beside.seconds(op_of(on, SYNC))
    assert transfer is not None and transfer.total > 0
    steps = {t.op: t for t in beside.timeline() if t.first == 0}
    assert steps[SYNC].end - steps[SYNC].begin == pytest.approx(transfer.total)
    assert steps["old"].begin < steps[SYNC].end < steps["old"].end
    assert steps[WAIT].end == steps[WAIT].begin  # the forward took longer
    assert held.step_seconds - beside.step_seconds == pytest.approx(transfer.total, rel=0.01)


def test_an_end_that_has_nothing_else_to_do_waits_for_it() -> None:
    plan = off_policy(cluster="4 x cpu", layouts=APART)
    found = plan_time(plan)
    assert isinstance(found, PlanTime)
    steps = {t.op: t for t in found.timeline() if t.first == 2}
    assert steps[WAIT].end == pytest.approx(steps[SYNC].end) and steps[WAIT].begin < steps[WAIT].end


def told(plan: Plan, op: str) -> OpMemory:
    assert plan.memory is not None
    return next(m for m in plan.memory.ops if m.op == op)


def test_budgets_count_what_is_on_its_way() -> None:
    on, off = (off_policy(AGAIN | more, cluster="2 x cpu", memory=8 * GIB) for more in (frozenset(), OFF))
    passing = told(on, SYNC).workspace - told(on, SYNC).categories["fields"]
    assert passing > 0
    beside, alone = told(on, "old"), told(off, "old")
    assert beside.workspace == alone.workspace + passing and beside.resident == alone.resident
    assert beside.categories["communication"] == alone.categories["communication"] + passing
    # Both write over the weights that are there.
    assert told(off, SYNC).categories["weights"] == told(on, SYNC).categories["weights"] > 0
    assert told(on, "update") == told(off, "update")


def test_states_leave_after_the_wait_under_a_tight_budget() -> None:
    plan = off_policy(cluster="2 x cpu", memory=int(1.8 * GIB))
    order = ids(plan)
    (away,) = (op.id for op in plan.ops() if isinstance(op, OffloadOp) and op.state is State.ENGINE)
    assert order.index("old") < order.index(WAIT) < order.index(away) < order.index("update")
    assert begun(plan) == [SYNC] and verify_plan(plan) == []
