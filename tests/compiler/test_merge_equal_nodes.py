"""What two nodes would compute alike is computed once; what may differ, or would be missed, is not."""

import pytest

from tests.compiler.programs import after, compiled

PROGRAM = """\
algorithm twice {
  model actor     : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node advantage = compute group_advantage(score) -> advantages
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node again     = reference.logprob(tokens, response_mask) -> other_logp
  node distil    = compute distillation_advantage(ref_logp, other_logp, response_mask) -> extra
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = other_logp, ref_logp; kl_coef = 0.1) with lr = 0.001
  metric gap     = mean(extra, response_mask)
}
"""


def test_the_second_of_two_equal_forwards_goes() -> None:
    module = after(PROGRAM, "merge_equal_nodes")
    assert "again" not in module.graph.node_of and "other_logp" not in module.fields
    assert [a.name for a in module.graph.node_of["distil"].call.args[:2]] == ["ref_logp", "ref_logp"]
    assert [d.what for d in module.dropped if d.by == "merge_equal_nodes"] == ["again"]


def test_chains_merge() -> None:
    text = PROGRAM.replace(
        "  node update ",
        "  node distil2   = compute distillation_advantage(other_logp, ref_logp, response_mask) -> extra2\n"
        "  metric gap2    = mean(extra2, response_mask)\n  node update ",
    )
    module = after(text, "merge_equal_nodes")
    assert "distil2" not in module.graph.node_of
    assert module.graph.node_of["gap2"].reads == ("extra", "response_mask")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("again     = reference.logprob(tokens, response_mask)", "again     = actor.logprob(tokens, response_mask)"),
        ("again     = reference.logprob(tokens, response_mask)", "again     = reference.logprob(tokens, response_mask; temperature = 0.5)"),
        ("  metric gap ", "  output rows = other_logp\n  metric gap "),
    ],
    ids=["another model", "another temperature", "a written row names it"],
)  # fmt: skip
def test_what_differs_or_is_missed_stays(old: str, new: str) -> None:
    assert "again" in after(PROGRAM.replace(old, new), "merge_equal_nodes").graph.node_of


def test_random_rollouts_and_logged_means_stay_and_greedy_rollouts_merge() -> None:
    double = PROGRAM.replace(
        "  node reward ",
        "  node second = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens2, mask2\n"
        "  node greedy = actor.generate(prompts; temperature = 0.0, max_new_tokens = 4) -> g1, gm1\n"
        "  node greedy2 = actor.generate(prompts; temperature = 0.0, max_new_tokens = 4) -> g2, gm2\n"
        "  node reward2 = compute exact_match(completions, answers) -> score2\n"
        "  metric length = mean(mask2)\n  metric glength = mean(gm1)\n  metric glength2 = mean(gm2)\n"
        "  metric other = mean(score2)\n  node reward ",
    )
    nodes = after(double, "merge_equal_nodes").graph.node_of
    assert {"rollout", "second", "greedy", "reward", "reward2"} <= nodes.keys() and "greedy2" not in nodes
    assert nodes["glength2"].reads == ("gm1",)


def test_it_can_be_left_out() -> None:
    whole = compiled(PROGRAM, disable=frozenset({"merge_equal_nodes", "fuse_forwards"})).plan
    assert len(list(whole.ops())) > len(list(compiled(PROGRAM).plan.ops()))
