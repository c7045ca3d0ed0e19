# What most programs beside this one import: a correct algorithm, of which each replaces a statement by a wrong one.
algorithm base {
  param group   : int   = 4
  param batch   : int   = 8 prompts
  param kl_coef : float = 0.1

  model actor     : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
