"""Forwards that need the same pass through the layers share it; what must stand between two keeps them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import FreeOp, InferMethod, InferOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.fuse_forwards import FuseForwards
from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Plan
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import Diagnostics
from tests.compiler.programs import after, compiled

PROGRAM = """\
algorithm shared_ppo {
  model actor    : policy = scratch(; alphabet = "01")
  model critic   : value  = shared actor
  model other    : value  = copy actor
  model judge    : reward = hf("package:judge")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout       = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward        = compute exact_match(completions, answers) -> score
  node old           = actor.logprob(tokens, response_mask) -> old_logp
  node rate          = judge.score(tokens, response_mask) -> rating
  node doubt         = other.value(tokens, response_mask) -> doubts
  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp, ref_logp = rollout_logp; kl_coef = 0.1) -> rewards
  node advantage     = compute gae(rewards, values, response_mask) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr = 0.001, minibatch = 4, epochs = 2
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, minibatch = 4, epochs = 2
  metric quality     = mean(rating)
  metric unsure      = mean(doubts, response_mask)
}
"""


def ids(text: str, *, disable: frozenset[str] = frozenset()) -> list[str]:
    """The forwards without gradients, in order."""
    return [op.id for op in compiled(text, disable=disable).plan.ops() if isinstance(op, InferOp)]


def fused(plan: Plan) -> InferOp:
    (found,) = (op for op in plan.ops() if isinstance(op, InferOp) and op.also)
    return found


def test_two_heads_of_one_trunk_share_a_forward() -> None:
    op = fused(compiled(PROGRAM).plan)
    assert (op.id, op.node, op.model, op.method, op.output) == ("old+baseline", "old", "actor", "logprob", "old_logp")
    (head,) = op.also
    assert (head.node, head.model, head.method, head.output) == ("baseline", "critic", "value", "values")
    assert op.reads == ("tokens", "response_mask") and op.writes == ("old_logp", "values")
    why = op.because[-1]
    assert why.by == "fuse_forwards" and why.why.startswith("`old` and `baseline` read the same tokens")


def test_before_and_after() -> None:
    before = [op.id for op in after(PROGRAM, "lower_nodes").ops]
    found = [op.id for op in after(PROGRAM, "fuse_forwards").ops]
    assert before.index("baseline") > before.index("old")
    assert found == [{"old": "old+baseline"}.get(n, n) for n in before if n != "baseline"]


def test_it_can_be_left_out() -> None:
    without = ids(PROGRAM, disable=frozenset({"fuse_forwards"}))
    assert sorted(without) == ["baseline", "doubt", "old", "rate"]
    assert sorted(ids(PROGRAM)) == ["doubt", "old+baseline", "rate"]


def test_another_trunk_and_a_score_stay_alone() -> None:
    parts = {p.node: p for op in compiled(PROGRAM).plan.ops() if isinstance(op, InferOp) for p in op.parts}
    assert parts["doubt"].model == "other" and parts["rate"].method is InferMethod.SCORE
    assert {n for n, p in parts.items() if p.id == n} == {"doubt", "rate"}


def test_another_temperature_shares_too() -> None:
    text = PROGRAM.replace(
        "  metric quality",
        "  node warm = actor.logprob(tokens, response_mask; temperature = 2.0) -> warm_logp\n"
        "  metric warmth = mean(warm_logp, response_mask)\n  metric quality",
    )
    op = fused(compiled(text).plan)
    assert {p.node: p.temperature for p in op.parts} == {"old": 1.0, "baseline": 1.0, "warm": 2.0}


MINE = """\
import rldsl as rl


def thinned(response_mask: rl.Mask) -> rl.Mask:
    return response_mask


def where_likely(response_mask: rl.Mask, old_logp: rl.PerToken) -> rl.Mask:
    return response_mask
"""


def of_masks(folder: Path, nodes: str, mask: str) -> Module:
    """What a program becomes in which `critic` looks at `mask`, made by `nodes`."""
    text = PROGRAM.replace("  node baseline ", f"{nodes}\n  node baseline ").replace(
        "critic.value(tokens, response_mask)", f"critic.value(tokens, {mask})"
    )
    (folder / "mine.py").write_text(MINE)
    (folder / "a.rl").write_text('use "mine.py"\n' + text)
    made = compile_file(folder / "a.rl")
    assert verify_plan(made.plan) == []
    return made.module


def test_another_mask_shares_too_and_what_makes_it_moves_before(tmp_path: Path) -> None:
    nodes = "  node thin = compute thinned(response_mask) -> m2\n  node thinner = compute thinned(m2) -> m3"
    ops = of_masks(tmp_path, nodes, "m3").ops
    names = [op.id for op in ops]
    op = next(o for o in ops if o.id == "old+baseline")
    assert isinstance(op, InferOp) and op.reads == ("tokens", "response_mask", "m3")
    assert names.index("thin") < names.index("thinner") < names.index("old+baseline")
    assert names.index("old+baseline") < names.index("shaping")


def test_what_waits_for_the_first_keeps_the_second_apart(tmp_path: Path) -> None:
    nodes = "  node likely = compute where_likely(response_mask, old_logp) -> m2"
    assert {"old", "baseline"} <= {op.id for op in of_masks(tmp_path, nodes, "m2").ops}


def test_the_second_of_three_may_stay_apart(tmp_path: Path) -> None:
    nodes = (
        "  node likely = compute where_likely(response_mask, old_logp) -> m2\n"
        "  node warm   = actor.logprob(tokens, m2; temperature = 2.0) -> l2\n"
        "  node cold   = actor.logprob(tokens, m2; temperature = 0.5) -> l3\n"
        "  metric far  = mean(l2, m2)\n  metric near = mean(l3, m2)"
    )
    forwards = {op.id for op in of_masks(tmp_path, nodes, "response_mask").ops if isinstance(op, InferOp)}
    assert forwards == {"old+baseline", "warm+cold", "rate", "doubt"}


def test_an_order_that_is_stated_holds() -> None:
    stated = PROGRAM.replace(
        "critic.value(tokens, response_mask) -> values", "critic.value(tokens, response_mask) -> values after old"
    )
    assert {"old", "baseline"} <= set(ids(stated))


COLLECTING = """\
algorithm collecting {
  model actor  : policy = scratch(; alphabet = "01")
  model critic : value  = shared actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  loop more max 2 collect tokens, response_mask, rollout_logp, score where useful {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
    node old     = actor.logprob(tokens, response_mask) -> old_logp
    node worth   = critic.value(tokens, response_mask) -> values
    metric likely = mean(old_logp, response_mask)
    metric good   = mean(values, response_mask)
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr = 0.001
}
"""


def test_each_round_of_a_loop_has_a_forward_of_its_own() -> None:
    assert ids(COLLECTING) == ["more.1.old+more.1.worth", "more.2.old+more.2.worth"]


def test_no_forward_moves_across_what_decides_whether_it_runs() -> None:
    module = after(COLLECTING, "lower_nodes")
    late = next(op for op in module.ops if op.id == "more.2.worth")
    rest = [op for op in module.ops if op is not late]
    at = next(i for i, op in enumerate(rest) if op.id == "more.2.collect") + 1
    moved = replace(module, ops=(*rest[:at], late, *rest[at:]))
    found = FuseForwards().apply(moved, Context(found=Diagnostics(), source_dir=Path()))
    assert [op.id for op in found.ops if isinstance(op, InferOp)] == [
        "more.1.old+more.1.worth", "more.2.old", "more.2.worth",
    ]  # fmt: skip


def test_a_chain_of_forwards_moves_as_it_stands(tmp_path: Path) -> None:
    """What moves before a forward may itself be one that others were fused into, and moved before already."""
    nodes = (
        "  node a  = other.value(tokens, response_mask) -> va\n"
        "  node m  = compute thinned(response_mask) -> m2\n"
        "  node mm = compute thinned(m2) -> m3\n"
        "  node b  = other.value(tokens, m3) -> vb\n"
        "  node n  = compute where_likely(m3, vb) -> m4"
    )
    made = of_masks(tmp_path, nodes + "\n  metric one = mean(va, response_mask)", "m4")
    names = [op.id for op in made.ops if not isinstance(op, FreeOp)]
    assert [n for n in names if n in ("m", "mm", "a", "n") or "+" in n] == ["m", "mm", "b+doubt", "n", "old+baseline"]


# -- plans by anyone


def damaged(plan: Plan, **changes: object) -> list[str]:
    """What the verifier says of the plan with something else in its fused forward."""
    op = fused(plan)
    made = msgspec.structs.replace(op, **changes)
    ops = tuple(made if o.id == op.id else o for o in plan.programs[0].ops)
    program = msgspec.structs.replace(plan.programs[0], ops=ops)
    return [d.message for d in verify_plan(msgspec.structs.replace(plan, programs=(program,)))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "ghost"}, "names a model `ghost` that is not there"),
        ({"model": "other"}, "runs `other` with `actor`, which has another trunk"),
        ({"model": "actor"}, "asks of `actor`, a policy model, what only a value model has"),
        ({"method": InferMethod.SCORE}, "takes a score with other passes"),
        ({"temperature": float("nan")}, "has temperature = nan"),
        ({"response_mask": "tokens"}, "its `response_mask` is bool[sample, token]"),
        ({"output": "old_logp"}, "writes `old_logp` while it is still held"),
        ({"node": None}, "comes from no node"),
        ({"node": "reward"}, "come from one node"),
        ({"node": "ghost"}, "comes from a node `ghost` that is not there"),
    ],
)
def test_a_head_is_judged_as_a_forward_of_its_own(change: dict[str, object], said: str) -> None:
    plan = compiled(PROGRAM).plan
    (head,) = fused(plan).also
    assert any(said in message for message in damaged(plan, also=(msgspec.structs.replace(head, **change),)))


def test_a_head_that_is_lost_is_missed() -> None:
    said = damaged(compiled(PROGRAM).plan, also=())
    assert any("no op does the work of the node `baseline`" in m for m in said)
    assert any("`advantage` reads `values`, which is not there" in m for m in said)


def test_a_model_that_only_further_heads_ask_is_used() -> None:
    without = "\n".join(line for line in PROGRAM.split("\n") if "critic_update" not in line)
    plan = compiled(without).plan
    assert [m.name for m in plan.models] == ["actor", "critic", "other", "judge"] and fused(plan).also
