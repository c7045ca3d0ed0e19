# tokens for text
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(tokens, answers) -> score
  #                                 ^^^^^^ RL0301 `tokens` has the wrong type for `completions` of `exact_match`
}
---
# text for numbers
import "parts/base.rl"

algorithm wrong {
  node advantage = compute group_advantage(completions; group) -> advantages
  #                                        ^^^^^^^^^^^ RL0301 `completions` has the wrong type for `score` of `group_advantage`
}
---
# a metric of text
import "parts/base.rl"

algorithm wrong {
  metric m = mean(completions)
  #               ^^^^^^^^^^^ RL0301 `completions` has the wrong type for `field` of `mean`
}
---
# an input of samples
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[sample] = jsonl("rows.jsonl") with batch
  #     ^^^^^^^^^^^^^^^^ RL0301 an input has one row a prompt
}
---
# groups of what no rollout made
import "parts/base.rl"

algorithm wrong {
  input scores : f32[prompt] = jsonl("scores.jsonl") with batch
  node advantage = compute group_advantage(scores; group) -> advantages
  #                        ^^^^^^^^^^^^^^^ RL0301 `group_advantage` works on groups, and its fields are no samples of a rollout
}
---
# prompts that are kept by a number
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect right where right {
  #                                    ^^^^^ RL0301 `right` cannot say which prompts to keep
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
  }
  metric kept = mean(right)
}
---
# a field that may be absent
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp; kl_coef) with lr = 0.001
  #                                                                                  ^^^^^^^^ RL0307 `ref_logp` is only there when `ref` runs
}
---
# a function that cannot do without
import "parts/base.rl"

algorithm wrong {
  node advantage = compute distillation_advantage(student_logp = old_logp, teacher_logp = ref_logp?, response_mask) -> advantages
  #                                                                        ^^^^^^^^^^^^^^^^^^^^^^^^ RL0307 `distillation_advantage` cannot do without `teacher_logp`
}
---
# samples of two rollouts
import "parts/base.rl"

algorithm wrong {
  node other = actor.generate(prompts; max_new_tokens = 4) -> tokens2, mask2, logp2, texts2
  node old = actor.logprob(tokens, mask2) -> old_logp
  #          ^^^^^ RL0310 these are rows of different rollouts: `tokens` of `rollout`, `mask2` of `other`
  output rows = texts2
}
---
# rows of two sets of prompts
import "parts/base.rl"

algorithm wrong {
  validate test every 10 {
    input prompts : text[prompt] = jsonl("test.jsonl") with batch = 4
    node reward2 = compute exact_match(prompts, answers) -> right
    #                      ^^^^^^^^^^^ RL0310 these are rows of different prompts: `test.prompts` of `test`, `answers` of the step's prompts
    metric m = mean(right)
  }
}
---
# samples where prompts are counted
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 32 samples
  #                                                                        ^^^^^^^^^^ RL0311 `batch` counts prompts
}
---
# a minibatch of samples
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, minibatch = 8 samples
  #                                                                                                   ^^^^^^^^^^^^^^^^^^^^^ RL0311 `minibatch` counts prompts
}
---
# prompts and samples added
import "parts/base.rl"

algorithm wrong {
  param more : int = 4 samples
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = batch + more
  #                                                                        ^^^^^^^^^^^^ RL0311 prompts and samples can be neither added nor compared
}
---
# a product keeps its unit
import "parts/base.rl"

algorithm wrong {
  param rows : int = 4 samples
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, minibatch = 2 * rows
  #                                                                                                   ^^^^^^^^^^^^^^^^^^^^ RL0311 `minibatch` counts prompts
}
---
# prompts for the number of samples
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = batch, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^^^^^^^^^ RL0311 `n` counts samples
}
---
# another type than stated
import "parts/base.rl"

algorithm wrong {
  node reward : JUDGE, MODEL_INFERENCE = compute exact_match(completions, answers) -> score
  #    ^^^^^^ RL0314 `reward` is declared MODEL_INFERENCE, but its call makes it COMPUTE
}
