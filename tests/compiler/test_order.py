"""Nodes of one depth run in an order with the fewest changes from one model to another."""

from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.compiler.passes.order_equal_depths import _sequence, changes
from tests.compiler.programs import PPO, after


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcd"), max_size=4).map(lambda s: tuple(sorted(s))), max_size=4))
def test_no_order_by_depths_changes_less(layers: list[tuple[str, ...]]) -> None:
    found = _sequence(layers)
    assert [sorted(f) for f in found] == [sorted(models) for models in layers]
    assert changes(found) == min(changes(order) for order in product(*(permutations(models) for models in layers)))


def test_nodes_without_a_model_come_first_and_models_stay_together() -> None:
    module = after(PPO, "order_equal_depths")
    models = [module.graph.node_of[n].call.model for n in module.order if module.depths[n] == 1]
    assert models == [None, "actor", "reference", "critic"]
    assert [module.depths[n] for n in module.order] == sorted(module.depths.values())


def test_the_model_that_ran_last_goes_on() -> None:
    text = """\
algorithm two {
  model actor  : policy = scratch(; alphabet = "01")
  model critic : value  = copy actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node values  = critic.value(tokens, response_mask) -> baseline
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node reward  = compute exact_match(completions, answers) -> score
  node shaping = compute kl_penalty(score, response_mask, old_logp) -> rewards
  node gae     = compute gae(rewards, values = baseline, response_mask) -> advantages, returns
  node fit     = critic.train value_loss(tokens, response_mask, values = baseline, returns) with lr = 0.001
  node update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, epochs = 2
}
"""
    assert after(text, "order_equal_depths").order[:4] == ("rollout", "reward", "old", "values")
