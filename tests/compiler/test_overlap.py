"""What runs in the background: which functions, from where to where, and which loads read ahead."""

from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.ops import AnyOp, Arg, CollectOp, ComputeOp, FreeOp, Guard, LoadOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.compiler.verify import verify_plan
from tests.compiler.programs import EXAMPLES, PPO, PROGRAM, compiled

GRPO = PROGRAM.replace("kl_coef : float = 0.0", "kl_coef : float = 0.1")
AS_WRITTEN = frozenset({"order_equal_depths"})
OWN = """
import rldsl as rl


def judge(completions: str, answers: str) -> float:
    return 1.0


def style(completions: str) -> float:
    return 0.0


def total(score: rl.PerSample, *, reduce: rl.Reduce) -> rl.PerSample:
    return score


def my_loss(logp: rl.PerToken, response_mask: rl.Mask, old_logp: rl.PerToken, advantages: rl.PerSample) -> rl.TokenLoss:
    return rl.TokenLoss(loss=-logp)
"""


def ids(plan: Plan) -> list[str]:
    return [op.id for op in plan.programs[0].ops if not isinstance(op, FreeOp)]


def begun(plan: Plan) -> list[str]:
    return [op.id for op in plan.ops() if isinstance(op, ComputeOp) and op.background]


def op_of(plan: Plan, name: str) -> AnyOp:
    return next(op for op in plan.ops() if op.id == name)


def own(folder: Path, text: str, functions: str = OWN, disable: frozenset[str] = frozenset()) -> Plan:
    (folder / "mine.py").write_text(functions)
    (folder / "own.rl").write_text('use "mine.py"\n' + text)
    return compile_file(folder / "own.rl", Options(disable=disable)).plan


def test_a_reward_runs_beside_the_forwards() -> None:
    plan = compiled(PPO).plan
    order = ids(plan)
    start = order.index("reward")
    assert order[start : start + 6] == ["reward", "old", "ref", "baseline", "wait:reward", "shaping"]
    reward, wait = op_of(plan, "reward"), op_of(plan, "wait:reward")
    assert isinstance(wait, WaitOp) and wait.begun == "reward" and wait.node == "reward"
    assert wait.holds == ("completions", "answers")
    assert reward.because[-1].by == "overlap_computes"
    assert reward.because[-1].why == "runs on the host beside `old`, `ref`, `baseline`: not needed before `shaping`"


def test_what_it_reads_stays_until_the_wait() -> None:
    ops = compiled(PPO).plan.programs[0].ops
    wait = next(i for i, op in enumerate(ops) if isinstance(op, WaitOp))
    freed = next(i for i, op in enumerate(ops) if isinstance(op, FreeOp) and "completions" in op.fields)
    assert freed == wait + 1


def test_nothing_to_run_beside() -> None:
    plan = compiled(PROGRAM.replace("  node old ", "  # ").replace("old_logp,", "old_logp = rollout_logp,")).plan
    assert begun(plan) == [] and not any(isinstance(op, WaitOp) for op in plan.ops())


def test_it_begins_before_what_it_can_run_beside() -> None:
    """Written behind the forwards of its depth, and left there by the pass that would put it first."""
    line = next(x for x in PPO.splitlines() if "node reward" in x)
    text = PPO.replace(line + "\n", "").replace("  node shaping", line + "\n  node shaping")
    plan = compiled(text, disable=AS_WRITTEN).plan
    order = ids(plan)
    assert order[order.index("rollout") + 1 :][:5] == ["reward", "old", "ref", "baseline", "wait:reward"]


def test_after_is_kept() -> None:
    """What runs after a function waits for it, also where it reads nothing of it."""
    plan = compiled(PPO.replace("-> ref_logp when kl_coef > 0", "-> ref_logp when kl_coef > 0 after reward")).plan
    order = ids(plan)
    assert order.index("old") < order.index("wait:reward") < order.index("ref")


def test_work_of_the_device_stays() -> None:
    """Shipped functions of tensors, such as advantages, are work of the device that models are on."""
    text = PPO.replace(
        "  node critic_update",
        "  node style = compute exact_match(completions, answers) -> s2\n  metric s2m = mean(s2)\n  node critic_update",
    )
    assert set(begun(compiled(text).plan)) == {"reward", "style"}


@pytest.mark.parametrize("text", ["import signal\n", "from signal import alarm\n", "import math_verify\n"])
def test_what_wants_the_main_thread_stays(tmp_path: Path, text: str) -> None:
    program = GRPO.replace("exact_match", "judge")
    assert begun(own(tmp_path, program)) == ["reward"]
    assert begun(own(tmp_path, program, text + OWN)) == []
    (tmp_path / "helper.py").write_text(text)
    assert begun(own(tmp_path, program, "import helper\n" + OWN)) == []


def test_the_shipped_function_that_sets_alarms_stays() -> None:
    assert begun(compiled(GRPO).plan) == ["reward"]
    assert begun(compiled(GRPO.replace("exact_match", "math_verify")).plan) == []


def test_two_of_the_users_own_never_run_at_once(tmp_path: Path) -> None:
    """The second, which sums over ranks and so stays, would run beside the first."""
    more = "  node style = compute style(completions) -> s2\n  node sums = compute total(s2) -> s3\n  metric m = mean(s3)\n"
    text = GRPO.replace("exact_match", "judge").replace("  node advantage", more + "  node advantage")
    plan = own(tmp_path, text, disable=AS_WRITTEN)
    order = ids(plan)
    waits = [op for op in plan.ops() if isinstance(op, WaitOp)]
    assert {w.begun for w in waits} == set(begun(plan)) == {"reward", "style"}
    assert all(order.index(w.id) < order.index("sums") for w in waits)


def test_an_own_loss_waits_for_an_own_function(tmp_path: Path) -> None:
    """What is read after the training only would else run beside it, whose loss is the user's too."""
    more = "  node style = compute style(completions) -> s2\n  node sums = compute total(s2) -> s3 after update\n"
    text = GRPO.replace(
        "policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef)",
        "my_loss(tokens, response_mask, old_logp, advantages)",
    )
    text = text.replace("  node update", f"{more}  metric m = mean(s3)\n  node update").replace(
        "minibatch", "epochs = 2, minibatch"
    )
    order = ids(own(tmp_path, text))
    assert order.index("old") < order.index("wait:style") < order.index("update") < order.index("sums")
    shipped = own(tmp_path, text.replace("my_loss(tokens", "policy_loss(tokens"))
    assert ids(shipped).index("update") < ids(shipped).index("wait:style")


LOOP = """\
algorithm filtered {
  model actor : policy = scratch(; alphabet = "01")
  model judge : reward = hf("package:judge")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  loop more max 3 collect tokens, response_mask, rollout_logp, score, rating where useful {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node rate    = judge.score(tokens, response_mask) -> rating
    node spread  = compute has_spread(score; group = 4) -> useful
  }
  node advantage = compute group_advantage(score; group = 4) -> advantages
  metric quality = mean(rating)
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr = 0.001
}
"""


def test_in_a_loop_a_guard_is_asked_alike() -> None:
    plan = compiled(LOOP).plan
    waits = [op for op in plan.ops() if isinstance(op, WaitOp)]
    assert [w.begun for w in waits] == begun(plan) == [f"more.{k}.reward" for k in (1, 2, 3)]
    assert [w.guard for w in waits] == [None, Guard(until="more"), Guard(until="more")]
    order = ids(plan)
    for k, wait in enumerate(waits, 1):
        assert op_of(plan, wait.begun).guard == wait.guard
        assert order.index(f"more.{k}.rate") < order.index(wait.id) < order.index(f"more.{k}.spread")
    ops = list(plan.programs[0].ops)
    late = next(op for op in ops if op.id == waits[1].id)
    ops.remove(late)
    ops.insert(
        next(i for i, op in enumerate(ops) if isinstance(op, CollectOp) and op.id.startswith("more.2")) + 1, late
    )
    assert any("which must ask it alike" in d.message for d in verify_plan(ops_of(plan, ops)))


def test_left_out() -> None:
    plan = compiled(PPO, disable=frozenset({"overlap_computes", "prefetch_loads"})).plan
    assert begun(plan) == [] and not any(isinstance(op, WaitOp) for op in plan.ops())
    assert not any(op.prefetch for op in plan.ops() if isinstance(op, LoadOp))


def test_training_rows_are_read_ahead_and_those_of_a_validation_are_not() -> None:
    loads = [op for op in compile_file(EXAMPLES / "validated.rl").plan.ops() if isinstance(op, LoadOp)]
    assert {op.prefetch for op in loads} == {True, False}
    assert all(op.prefetch != op.first for op in loads)


# -- the verifier, of plans that no compiler of ours wrote


def ops_of(plan: Plan, ops: list[AnyOp]) -> Plan:
    return msgspec.structs.replace(plan, programs=(msgspec.structs.replace(plan.programs[0], ops=tuple(ops)),))


def test_an_own_function_beside_another_is_refused(tmp_path: Path) -> None:
    more = "  node style = compute style(completions) -> s2\n  metric m = mean(s2)\n  node advantage"
    plan = own(tmp_path, GRPO.replace("exact_match", "judge").replace("  node advantage", more))
    assert verify_plan(plan) == []
    style = op_of(plan, "style")
    foreground = [
        msgspec.structs.replace(op, background=False) if op is style else op
        for op in plan.programs[0].ops
        if op.id != "wait:style"
    ]
    said = [d.message for d in verify_plan(ops_of(plan, foreground))]
    assert any("`style` calls a function of the user's while `reward` runs" in m for m in said)


def test_a_function_of_the_background_that_sums_is_refused() -> None:
    plan = compiled(PPO).plan
    ops = list(plan.programs[0].ops)
    at = next(i for i, op in enumerate(ops) if op.id == "advantage")
    ops[at] = gae = msgspec.structs.replace(ops[at], background=True)
    ops.insert(at + 1, WaitOp(id="wait", node="advantage", begun="advantage", holds=gae.reads))
    assert [d.message for d in verify_plan(ops_of(plan, ops))] == [
        "`advantage` sums over ranks in the background, where these are in no order"
    ]


def test_a_function_without_results_is_waited_for_at_the_end(tmp_path: Path) -> None:
    """As another tool may write it: what it reads must stay until the end."""
    plan = compiled(PPO).plan
    ops = list(plan.programs[0].ops)
    args = (Arg(param="completions", field="completions"), Arg(param="answers", field="answers"))
    quiet = msgspec.structs.replace(op_of(plan, "reward"), id="quiet", node="quiet", args=args, outputs=())
    at = next(i for i, op in enumerate(ops) if op.id == "reward")
    found = verify_plan(
        msgspec.structs.replace(ops_of(plan, [*ops[:at], quiet, *ops[at:]]), depths={}, edges=(), roles={})
    )
    assert any("nothing waits for `quiet`" in d.message for d in found)
