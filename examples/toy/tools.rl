# Two turns from random weights on a toy: ask for three digits that only the environment knows, then copy them. Prompts
# are all alike and the first turn has room for one character, so it pays to ask. 200 steps, half a minute on one core.
use "oracle.py"

algorithm toy_tools {
  param batch : int   = 32 prompts in [1, )
  param group : int   = 8 in [2, )
  param turns : int   = 2 in [1, 8]
  param lr    : float = 0.001 in (0, )
  param seed  : int   = 0

  model actor : policy = scratch(; alphabet = "0123=?", hidden = 64, layers = 2, heads = 2)

  input prompts, answers : text[prompt] = jsonl("copy.jsonl"; template = "=") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 1) -> tokens, response_mask, rollout_logp, completions

  loop dialogue max turns carry tokens, response_mask, rollout_logp, completions {
    node environment = compute oracle(completions, answers) -> observation, done
    node reply       = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    metric over = mean(done)
  }

  node reward    = compute char_accuracy(completions, answers) -> score
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages) with lr
}
