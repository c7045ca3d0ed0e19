# GRPO from random weights on a toy: copy three digits. A minute on two cores; try changes here first.
algorithm toy_grpo {
  param batch : int   = 32 prompts
  param group : int   = 8
  param lr    : float = 0.001
  param seed  : int   = 0

  model actor : policy = scratch(; alphabet = "0123=", hidden = 64, layers = 2, heads = 2)

  input prompts, answers : text[prompt] = jsonl("copy.jsonl") with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr
}
