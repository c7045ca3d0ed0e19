# DAPO (arXiv 2503.14476) from random weights on a toy: copy three digits. Prompts are sampled until enough of them have
# samples of different scores; in the end none has, and nothing is left to learn. 150 steps, half a minute on one core.
algorithm toy_dapo {
  param sampled   : int   = 32 prompts in [1, )
  param batch     : int   = 32 prompts in [1, )
  param minibatch : int   = 16 prompts
  param tries     : int   = 3 in [1, 16]
  param group     : int   = 8 in [2, )
  param lr        : float = 0.001 in (0, )
  param seed      : int   = 0

  model actor : policy = scratch(; alphabet = "0123=", hidden = 64, layers = 2, heads = 2)

  input prompts, answers : text[prompt] = jsonl("copy.jsonl") with batch = sampled

  loop resample max tries collect tokens, response_mask, score where useful until batch {
    node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute char_accuracy(completions, answers) -> score
    node spread  = compute has_spread(score; group) -> useful
    metric accuracy = mean(score)
  }

  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages; clip_high = 0.28) with lr, minibatch
}
