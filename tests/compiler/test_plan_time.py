"""Seconds of a plan's ops and of its step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isclose
from pathlib import Path

import pytest
from msgspec.structs import replace

from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import NoFacts, shipped_models
from rldsl.compiler.cost.hardware import HARDWARE, hardware_of
from rldsl.compiler.cost.plan_time import Assumed, PlanTime, plan_time
from rldsl.compiler.cost.time_model import (
    Placed,
    Rows,
    causal_work,
    decode_seconds,
    forward_seconds,
    generate_seconds,
    optimizer_seconds,
    packed_work,
    train_seconds,
)
from rldsl.compiler.cost.timeline import Timed
from rldsl.compiler.ops import AnyOp, GenerateOp, OffloadOp, OnloadOp, SyncWeightsOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"
QWEN = "Qwen/Qwen2.5-7B"
FACTS = shipped_models()["Qwen2.5-7B"]


def compiled(name: str, *settings: str, cluster: str = "16 x h100", layouts: tuple[str, ...] = ()) -> Plan:
    minibatch = ("minibatch=64",) if name == "ppo" else ()
    given = (f"model={QWEN}", "batch=256", *minibatch, *settings)
    options = Options(settings=given, cluster=cluster, layouts=layouts)
    return compile_file(EXAMPLES / f"{name}.rl", options).plan


def timed(plan: Plan, **assumed: float) -> PlanTime:
    found = plan_time(plan, Assumed(**assumed) if assumed else None)
    assert isinstance(found, PlanTime)
    return found


def ops(plan: Plan) -> Mapping[str, AnyOp]:
    return {op.id: op for op in plan.ops()}


def total(found: PlanTime, op: str) -> float:
    seconds = found.seconds(ops(found.plan)[op])
    assert seconds is not None and isclose(seconds.total, sum(s for _, s in seconds.parts))
    return seconds.total


def end(steps: tuple[Timed, ...]) -> float:
    return max(each.end for each in steps)


def test_ops_of_ppo_by_hand():
    plan = compiled("ppo", "epochs=2")
    found = timed(plan, prompt_tokens=400)
    rollout = ops(plan)["rollout"]
    rows = Rows(prompts=256, samples=rollout.n, prompt_tokens=400, response_tokens=rollout.max_new_tokens)
    placed = Placed(facts=FACTS, axes=Axes(dp=16), hardware=HARDWARE["h100"], precision="bf16")
    work = packed_work(FACTS, rows, 16)
    assert isclose(total(found, "old"), forward_seconds(placed, work))
    passes = train_seconds(placed, work, micro_batches=4)
    assert isclose(total(found, "actor_update"), 2 * (passes + 4 * optimizer_seconds(placed)))
    engine = Placed(facts=FACTS, axes=Axes(dp=16), hardware=HARDWARE["h100"], precision="bf16", sharded=False)
    assert isclose(total(found, "rollout"), generate_seconds(engine, rows))
    # The critic has no matrix to the vocabulary.
    assert total(found, "baseline") < total(found, "ref")


def test_short_responses_take_less():
    plan = compiled("grpo")
    long, half, none = (timed(plan, prompt_tokens=100, filled=part) for part in (1.0, 0.5, 0.0))
    prompts, short = total(none, "rollout"), total(half, "rollout")
    assert isclose((short - prompts) / (total(long, "rollout") - prompts), 0.5, rel_tol=0.05)
    assert total(none, "update") < total(long, "update")


def test_functions_and_unknown_models_have_no_seconds():
    plan = compiled("ppo")
    found = timed(plan)
    assert found.seconds(ops(plan)["reward"]) is None
    nothing = PlanTime(plan, {}, HARDWARE["h100"], 16)
    assert all(nothing.seconds(op) is None for op in plan.ops() if op.id in ("old", "rollout", "actor_update"))
    assert end(nothing.timeline()) == 0


def test_a_plan_for_any_hardware_has_no_seconds():
    plan = compile_file(EXAMPLES / "ppo.rl", Options()).plan
    found = plan_time(plan)
    assert isinstance(found, NoFacts) and "--cluster" in found.reason
    found = plan_time(compiled("ppo", "model=no/such-model"))
    assert isinstance(found, NoFacts) and "no/such-model" in found.reason


def test_own_figures_count():
    slow = timed(compiled("ppo", cluster="16 x h100(bf16 = 100)"))
    assert slow.hardware == hardware_of("h100", {"bf16": 100})
    assert total(slow, "actor_update") > 5 * total(timed(compiled("ppo")), "actor_update")


def test_one_program_runs_one_op_after_the_other():
    plan = compiled("ppo")
    found = timed(plan)
    steps = found.timeline()
    assert [s.op for s in steps] == [op.id for op in plan.programs[0].ops]
    assert all(isclose(a.end, b.begin) for a, b in pairwise(steps))
    assert isclose(end(steps), sum(s.total for op in plan.ops() if (s := found.seconds(op))))
    assert isclose(found.step_seconds, end(steps))


@pytest.mark.parametrize(("name", "beside"), [("grpo", False), ("off_policy", True)])
def test_ranks_apart_work_side_by_side_where_rollouts_may_be_older(name, beside):
    layouts = ("actor.train : fsdp(dp = 8) on 0..7", "actor.generate : hf(dp = 8) on 8..15")
    plan = compiled(name, layouts=layouts)
    found = timed(plan, prompt_tokens=200)
    steps = found.timeline()
    assert len(plan.programs) == 2
    # All programs' ops, in their order, and collectives at one time wherever they stand.
    for program in plan.programs:
        mine = [s for s in steps if s.first == program.first]
        assert [s.op for s in mine] == [op.id for op in program.ops]
        assert all(a.end <= b.begin + 1e-12 for a, b in pairwise(mine))
    for op in plan.ops():
        if op.collective:
            assert len({(s.begin, s.end) for s in steps if s.op == op.id}) == 1
    both = sum(s.total for op in plan.ops() if (s := found.seconds(op)))
    assert isclose(end(steps), both)
    assert (found.step_seconds < 0.95 * both) is beside
    if beside:
        busiest = max(sum(s.end - s.begin for s in steps if s.first == p.first) for p in plan.programs)
        assert isclose(found.step_seconds, busiest, rel_tol=1e-6)


def test_megatron_attends_only_to_what_it_sees():
    layouts = ("actor.train : megatron(dp = 4, tp = 4)", "actor.generate : vllm(dp = 4, tp = 4)")
    plan = compiled("grpo", layouts=layouts)
    found = timed(plan, prompt_tokens=600)
    assert found.engine("actor", ops(plan)["update"].model and "train") == "megatron"
    limit = ops(plan)["rollout"].max_new_tokens
    rows = Rows(prompts=256, samples=ops(plan)["rollout"].n, prompt_tokens=600, response_tokens=limit)
    placed = Placed(facts=FACTS, axes=Axes(dp=4, tp=4), hardware=HARDWARE["h100"], precision="bf16", sharded=False)
    work = causal_work(FACTS, rows, 4)
    micro_batches = -(-rows.count // 4 // (16384 // rows.length))
    expected = train_seconds(placed, work, micro_batches=micro_batches) + optimizer_seconds(placed)
    assert isclose(total(found, "update"), expected)


def test_what_runs_in_few_steps_counts_for_few():
    plan = compiled("validated")
    found = timed(plan)
    op = next(op for op in plan.ops() if op.guard and op.guard.every and found.seconds(op))
    known = found.seconds(op)
    step = next(s for s in found.timeline() if s.op == op.id)
    assert known is not None and op.guard is not None
    assert isclose((step.end - step.begin) * op.guard.every, known.total, rel_tol=1e-6)


def test_adapters_take_a_step_of_their_own_size():
    whole, adapted = (
        timed(compiled(n, "teacher=Qwen/Qwen2.5-7B") if n == "distill" else compiled(n)) for n in ("grpo", "distill")
    )
    parts = dict(adapted.seconds(next(op for op in adapted.plan.ops() if op.id == "update")).parts)
    others = dict(whole.seconds(ops(whole.plan)["update"]).parts)
    assert parts["optimizer"] < others["optimizer"] / 20


def test_a_limit_below_a_row_changes_nothing():
    layouts = ("actor.train : megatron(dp = 2, tp = 4, pp = 2)", "actor.generate : vllm(dp = 4, tp = 4)")
    plan = compiled("grpo", "batch=16", "group=4", layouts=layouts)
    found = timed(plan, prompt_tokens=6000)
    update, length = ops(plan)["update"], 6000 + ops(plan)["rollout"].max_new_tokens

    def passes(limit: int) -> float:
        seconds = found.seconds(replace(update, micro_batch_tokens=limit))
        return dict(seconds.parts)["passes"]

    assert passes(1) == passes(length - 1) == passes(length)
    # 32 rows on each replica: two at once are 16 micro-batches, for which two stages wait half as often.
    assert isclose(passes(2 * length) / passes(length), (1 + 1 / 16) / (1 + 1 / 32), rel_tol=1e-3)


def test_replicas_of_megatron_meet_once_a_step():
    layouts = ("actor.train : megatron(tp = 8)", "actor.generate : vllm(tp = 8)")

    def update(replicas: int) -> float:
        """Seconds of eight rows on each replica, in a micro-batch each."""
        given = ("model=Qwen/Qwen2.5-32B", f"batch={replicas}")
        plan = compiled("grpo", *given, cluster=f"{8 * replicas} x h200", layouts=layouts)
        op = replace(ops(plan)["update"], micro_batch_tokens=1024)
        return dict(timed(plan, prompt_tokens=1000).seconds(op).parts)["passes"]

    # An eighth of 32.8e9 parameters, 6 bytes of each to 15 others over 40 GB/s; a micro-batch's work hides some.
    most = 32.76e9 / 8 * 6 * 15 / 16 / 40e9
    assert 0.8 * most < update(16) - update(1) < most


def lengthened(folder: Path, name: str, new: int, **options: object) -> Plan:
    """A shipped algorithm with prompts of up to 1,024 tokens and so many new ones."""
    text = (EXAMPLES / f"{name}.rl").read_text()
    longer = text.replace("max_new_tokens = 24", f"max_new_tokens = {new}, max_prompt_tokens = 1024")
    assert longer != text
    path = folder / f"{name}.rl"
    path.write_text(longer)
    return compile_file(path, Options(**options)).plan


VLLM = "actor.generate : vllm(tp = 4)"
MEGATRON = tuple(f"{phase} : megatron(tp = 4, pp = 2)" for phase in ("actor.train", "critic.train", "reference.infer"))


@pytest.mark.parametrize(
    ("name", "new", "settings", "layouts"),
    [
        ("grpo", 1000, (), ()),
        ("grpo", 31_744, ("batch=256",), (VLLM,)),
        ("ppo", 7_168, ("batch=512", "minibatch=128"), (VLLM,)),
        ("ppo", 7_168, ("batch=512", "minibatch=128"), (VLLM, *MEGATRON)),
        ("tools", 4_000, ("batch=64",), ("actor.generate : sglang(tp = 2)",)),
    ],
    ids=["our engine", "long", "ppo", "megatron", "turns"],
)
def test_memory_and_time_predict_the_same_seconds(name, new, settings, layouts, tmp_path):
    batch = () if settings else ("batch=64",)
    given = (f"model={QWEN}", *batch, *settings)
    plan = lengthened(tmp_path, name, new, settings=given, cluster="16 x h100", layouts=layouts)
    memory, found = plan.memory, timed(plan)
    assert memory is not None and len(plan.programs) == 1
    moves = {op.id for op in plan.ops() if isinstance(op, OnloadOp | OffloadOp | WaitOp)}
    told = {name: seconds for name, seconds in memory.seconds.items() if name not in moves}
    assert told == {
        o.id: round(s.total, 6) for o in plan.ops() if o.id not in moves and (s := found.seconds(o)) and s.total
    }
    # Moves in the background wait for each other differently in a chain of steps.
    assert isclose(sum(memory.seconds.values()), found.step_seconds, rel_tol=0.01)


def test_a_pool_that_is_too_small_for_all_rows_makes_waves(tmp_path):
    given = (f"model={QWEN}", "batch=256")
    plan = lengthened(tmp_path, "grpo", 31_744, settings=given, cluster="8 x h100", layouts=(VLLM,))
    rollout = ops(plan)["rollout"]
    assert isinstance(rollout, GenerateOp) and plan.memory is not None
    # On each of two replicas 128 prompts with 8 rows; of the rows at once keys and values take what the plan says.
    assert rollout.rows_at_once in {8 * 128 >> shift for shift in range(1, 8)}
    (told,) = (m for m in plan.memory.ops if m.op == "rollout")
    token = 28 * 2 * 4 * 128 * 2 / 4
    pool = rollout.rows_at_once * token * (1024 + 31_744 - 1)
    # While it is filled, the prompts' own keys are there as well.
    assert pool < told.categories["kv_cache"] < 1.01 * pool
    assert any("rows decoded at once" in reason.why for reason in rollout.because)
    waves = 1024 // rollout.rows_at_once
    engine = Placed(facts=FACTS, axes=Axes(dp=2, tp=4), hardware=HARDWARE["h100"], sharded=False)
    each = decode_seconds(engine, rollout.rows_at_once, 512 + 31_744 // 2)
    assert isclose(total(timed(plan), "rollout"), waves * 31_744 * each, rel_tol=0.01)


def test_our_engine_decodes_whole_prompts(tmp_path):
    given = (f"model={QWEN}", "batch=64")
    plan = lengthened(tmp_path, "grpo", 64_512, settings=given, cluster="8 x h100")
    engine = Placed(facts=FACTS, axes=Axes(dp=8), hardware=HARDWARE["h100"], sharded=False)
    # 57,344 bytes a token: 4 GiB are one row, yet the eight of a prompt go together; a rank has eight prompts.
    expected = 8 * 64_512 * decode_seconds(engine, 8, 512 + 64_512 // 2)
    assert isclose(total(timed(plan), "rollout"), expected, rel_tol=0.01)


def test_prompts_are_no_longer_than_the_plan_allows(tmp_path):
    given = (f"model={QWEN}", "batch=64")
    plan = lengthened(tmp_path, "grpo", 100, settings=given, cluster="8 x h100")
    assert timed(plan, prompt_tokens=5000).prompt_tokens == 1024 and timed(plan, prompt_tokens=80).prompt_tokens == 80
    assert isclose(*(total(timed(plan, prompt_tokens=n), "rollout") for n in (1024, 5000)))


def test_stages_are_gathered_for_the_rollout_engine():
    def transfer(train: str) -> float:
        layouts = (f"actor.train : megatron({train})", "actor.generate : vllm(tp = 8)")
        plan = compiled("grpo", "model=Qwen/Qwen2.5-72B", "batch=32", cluster="32 x h200", layouts=layouts)
        return total(timed(plan), next(op.id for op in plan.ops() if isinstance(op, SyncWeightsOp)))

    # 18.2 GB a rank: read and written once, and three quarters of them come from other nodes at 40 GB/s.
    each = 72.706e9 * 2 / 8
    assert isclose(transfer("tp = 8"), each / (4800e9 * 0.7), rel_tol=1e-3)
    assert isclose(transfer("tp = 8, pp = 4"), each * 0.75 / 40e9 + 80 * 20e-6 + each / (4800e9 * 0.7), rel_tol=1e-3)
