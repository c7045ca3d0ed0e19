"""Each pass by what it does to a program."""

import pytest

from rldsl.compiler.expr import Literal
from rldsl.compiler.ops import CollectOp, FreeOp, GenerateOp, ReshardOp, SyncKind, SyncWeightsOp, TrainOp
from tests.compiler.programs import PPO, PROGRAM, after, compiled

DEPLOYED = PROGRAM + "deploy {\n  actor.train : fsdp(dp = 4)\n  actor.generate : hf(dp = 2)\n}\n"


def ids(ops) -> list[str]:
    return [op.id for op in ops]


def op(plan, kind):
    return next(o for o in plan.ops() if isinstance(o, kind))


def test_roles_are_inferred() -> None:
    roles = {n.id: n.role for n in after(PPO, "resolve_names").graph.nodes}
    assert roles["rollout"] == "ACTOR" and roles["critic_update"] == "CRITIC"
    assert roles["ref"] == "REFERENCE" and roles["reward"] == "REWARD" and roles["advantage"] == "ADVANTAGE"


def test_arguments_bind_by_name_first() -> None:
    text = PROGRAM.replace("compute exact_match(completions, answers)", "compute exact_match(answers, completions)")
    reward = after(text, "bind_arguments").graph.node_of["reward"]
    assert [(a.param, a.name) for a in reward.call.args] == [("completions", "completions"), ("answers", "answers")]


def test_arguments_bind_in_order_otherwise() -> None:
    text = PROGRAM.replace("prompts, answers :", "prompts, truth :").replace(
        "completions, answers", "truth, completions"
    )
    reward = after(text, "bind_arguments").graph.node_of["reward"]
    assert [(a.param, a.name) for a in reward.call.args] == [("completions", "completions"), ("answers", "truth")]


def test_edges_follow_fields_and_weights() -> None:
    edges = {(e.source, e.target, e.carries) for e in after(PROGRAM, "infer_edges").graph.edges}
    assert ("rollout", "reward", "completions") in edges
    assert ("old", "update", "actor") in edges, "whoever uses weights runs before they change"
    assert ("ref", "update", "actor") not in edges


def test_fields_know_their_rollout() -> None:
    fields = after(PROGRAM, "check_counts").fields
    assert str(fields["advantages"].type) == "f32[sample]" and fields["advantages"].lineage == "rollout"
    assert fields["advantages"].per_prompt == 4 and fields["prompts"].per_prompt == 1


def test_parameters_become_values() -> None:
    module = after(PROGRAM, "bind_parameters", "group=2")
    n = next(k for k in module.graph.node_of["rollout"].call.keywords if k.name == "n")
    assert n.value == Literal(value=2)


@pytest.mark.parametrize(("kl_coef", "there"), [("0.0", False), ("0.1", True)])
def test_conditions_fold(kl_coef: str, there: bool) -> None:
    graph = after(PROGRAM, "fold_conditions", f"kl_coef={kl_coef}").graph
    assert ("ref" in graph.node_of) == there
    arg = next(a for a in graph.node_of["update"].call.args if a.name == "ref_logp")
    assert arg.absent != there


def test_reference_model_goes_without_kl() -> None:
    plan = compiled(PROGRAM).plan
    assert [m.name for m in plan.models] == ["actor"]
    assert {d.what for d in plan.dropped} >= {"ref", "reference", "old", "update.old_logp"}


def test_old_logp_is_elided_for_one_step() -> None:
    args = {a.param: a for a in op(compiled(PROGRAM).plan, TrainOp).args}
    assert args["old_logp"].current and args["old_logp"].field is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minibatch = 8", "minibatch = 4"),
        ("minibatch = 8", "minibatch = 8, epochs = 2"),
        ("minibatch = 8", "minibatch = 8, temperature = 0.5"),
        ("old       = actor.logprob", "old       = reference.logprob"),
    ],
)
def test_old_logp_stays_where_it_differs(old: str, new: str) -> None:
    plan = compiled(PROGRAM.replace(old, new)).plan
    args = {a.param: a for a in op(plan, TrainOp).args}
    assert args["old_logp"].field == "old_logp" and "old" in ids(plan.ops())


def test_old_logp_is_computed_when_something_else_reads_it() -> None:
    plan = compiled(PPO.replace("minibatch = 4, epochs = 2", "minibatch = 8")).plan
    assert "old" in ids(plan.ops()), "the KL penalty reads it"


def test_zero_rows_are_skipped_only_without_kl() -> None:
    assert op(compiled(PROGRAM).plan, TrainOp).skip_where_zero == "advantages"
    assert op(compiled(PROGRAM, "kl_coef=0.1").plan, TrainOp).skip_where_zero is None
    actor = next(o for o in compiled(PPO).plan.ops() if o.id == "actor_update")
    assert actor.skip_where_zero is None, "advantages of tokens: no whole row is zero"


@pytest.mark.parametrize("name", ["elide_old_logp", "skip_zero_rows"])
def test_optimisations_can_be_left_out(name: str) -> None:
    plan = compiled(PROGRAM, disable=frozenset({name})).plan
    assert plan != compiled(PROGRAM).plan


def test_dead_outputs_are_not_written() -> None:
    outputs = op(compiled(PROGRAM).plan, GenerateOp).outputs
    assert set(outputs) == {"tokens", "response_mask", "completions"}


def test_diamond_keeps_its_depths() -> None:
    module = after(PPO, "compute_depth")
    depths = module.depths
    assert depths["reward"] == depths["old"] == depths["ref"] == depths["baseline"] == 1
    assert depths["shaping"] == 2 and depths["advantage"] == 3 and depths["actor_update"] == 4
    assert list(module.order) == sorted(module.order, key=lambda n: depths[n])


def test_one_layout_needs_no_reshard() -> None:
    assert not [o for o in compiled(PPO, world_size=4).plan.ops() if isinstance(o, ReshardOp)]


def test_two_layouts_reshard_both_ways() -> None:
    plan = compiled(DEPLOYED).plan
    moves = [(o.source, o.target, set(o.fields)) for o in plan.ops() if isinstance(o, ReshardOp)]
    # Prompts are loaded where they are read; what all ranks want goes to them at once.
    assert moves == [("ranks0-1", "world", {"answers", "tokens", "response_mask", "completions"})]
    assert plan.world_size == 4 and [(p.first, p.last) for p in plan.programs] == [(0, 2), (2, 4)]
    assert "rollout" in ids(plan.programs[0].ops) and "rollout" not in ids(plan.programs[1].ops)


def test_weights_are_synced_before_the_rollout() -> None:
    for world, kind in ((1, SyncKind.LOCAL), (2, SyncKind.ALL_GATHER)):
        ops = list(compiled(PROGRAM, world_size=world).plan.ops())
        sync = next(o for o in ops if isinstance(o, SyncWeightsOp))
        assert sync.sync is kind and ids(ops).index(sync.id) < ids(ops).index("rollout")


def test_fields_are_freed_after_their_last_reader() -> None:
    ops = list(compiled(PROGRAM).plan.ops())
    for field in ("completions", "tokens", "prompts"):
        free = next(i for i, o in enumerate(ops) if isinstance(o, FreeOp) and field in o.fields)
        last = max(i for i, o in enumerate(ops) if field in o.reads)
        assert free == last + 1


def test_any_world_size_that_divides() -> None:
    plan = compiled(PPO).plan
    assert plan.world_size is None and plan.divides == 4


def test_random_order_of_siblings_does_not_matter() -> None:
    """The plan depends on the text's order only where the graph leaves one open."""
    lines = PROGRAM.splitlines(keepends=True)
    first, last = (next(i for i, line in enumerate(lines) if word in line) for word in ("node rollout", "node update"))
    swapped = "".join([*lines[:first], *reversed(lines[first : last + 1]), *lines[last + 1 :]])
    assert ids(compiled(swapped).plan.ops()) == ids(compiled(PROGRAM).plan.ops())


ANSWERED = """
algorithm answered {
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node first   = actor.generate(prompts; n = 2, max_new_tokens = 4, temperature = 0.7) -> a_tokens, a_mask, a_logp, a_text
  node second  = actor.generate(a_text; max_new_tokens = 4, temperature = 0.5) -> tokens, mask, logp, text
  node reward  = compute exact_match(completions = text, answers) -> score
  node old     = actor.logprob(tokens, mask; temperature = 0.7) -> old_logp
  node update  = actor.train policy_loss(tokens, mask, old_logp, advantages = score) with lr = 0.001
}
"""


def test_temperature_is_that_of_the_rollout_that_sampled_the_tokens() -> None:
    """Rows that answer those of another rollout have its ids and lineage, but not its temperature."""
    plan = compiled(ANSWERED).plan
    assert op(plan, TrainOp).temperature == 0.5
    assert "old" in [o.id for o in plan.ops()], "log-probs at another temperature are other log-probs"


def test_a_loop_counts_what_it_collects_where_the_count_decides_what_is_logged() -> None:
    loop = """
  loop more max 2 collect right where useful {
    node sampled = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, logp, completions
    node again   = compute exact_match(completions, answers) -> right
    node spread  = compute has_spread(right) -> useful
    metric share = mean(useful)
  }
}"""
    plan = compiled(PROGRAM.strip().removesuffix("}") + loop).plan
    second = next(o for o in plan.ops() if o.id == "more.2.share")
    assert second.guard is not None and second.guard.until == "more"
    assert [o.id for o in plan.ops() if isinstance(o, CollectOp)] == ["more.1.collect", "more.2.collect"]
