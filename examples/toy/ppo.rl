# PPO from random weights on a toy: copy three digits. A minute on two cores; try changes here first.
algorithm toy_ppo {
  param batch     : int   = 64 prompts
  param minibatch : int   = 32 prompts
  param epochs    : int   = 2
  param actor_lr  : float = 0.001
  param critic_lr : float = 0.003
  param seed      : int   = 0

  model actor  : policy = scratch(; alphabet = "0123=", hidden = 64, layers = 2, heads = 2)
  model critic : value  = copy actor

  input prompts, answers : text[prompt] = jsonl("copy.jsonl") with batch

  node rollout       = actor.generate(prompts; n = 2, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward        = compute char_accuracy(completions, answers) -> score
  node old           = actor.logprob(tokens, response_mask) -> old_logp
  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp) -> rewards
  node advantage     = compute gae(rewards, values, response_mask) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr = critic_lr, minibatch, epochs
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = actor_lr, minibatch, epochs
}
