# a field, a parameter, an option
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = grup, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                          ^^^^ RL0203 did you mean `group`?
  node reward = compute exact_match(completion, answers) -> score
  #                                 ^^^^^^^^^^ RL0201 did you mean `completions`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = "fast", minibatch = 8
  #                                                                                                           ^^^^^^^^^^^ RL0304 `lr` must be of type float
}
---
# a syntax error before, between and after semantic ones
algorithm wrong {
  param group int = 4
  #           ^^^ RL0102 `:` is missing before `int`
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_mach(completions, answers) -> score
  #                     ^^^^^^^^^^ RL0204 did you mean `exact_match`?
  node old = actor.logprob(tokens, response_mask -> old_logp
  #                                              ^^ RL0102 the bracket `(` is not closed
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, mini_batch = 8
  #                                                                                                                       ^^^^^^^^^^^^^^ RL0207 did you mean `minibatch`?
}
---
# three syntax errors
algorithm wrong {
  param group : int = 4
  param batch : int == 8 prompts
  #                 ^^ RL0102 a value is given with `=`
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  nod reward = compute exact_match(completions, answers) -> score
# ^^^ RL0102 did you mean `node`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) => advantages
  #                                                      ^^ RL0102 a node needs `->` before its outputs
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# every declaration is wrong
algorithm wrong {
  param group : integer = 4
  #             ^^^^^^^ RL0210 did you mean `int`?
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabt = "01")
  #                                ^^^^^^^^^^^^^^ RL0207 did you mean `alphabet`?
  model reference : policy = frozen acter
  #                                 ^^^^^ RL0202 did you mean `actor`?
  input prompts, answers : text[prompt] = json("rows.jsonl") with batch
  #                                       ^^^^^^^^^^^^^^^^^^ RL0209 did you mean `jsonl`?

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# types and arity
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(tokens, answers) -> score
  #                                 ^^^^^^ RL0301 `tokens` has the wrong type for `completions` of `exact_match`
  node old = actor.logprob(tokens) -> old_logp
  #          ^^^^^ RL0302 `actor.logprob` needs `response_mask`
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score, answers; group) -> advantages
  #                                               ^^^^^^^ RL0303 `group_advantage` has no parameter for `answers`
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# numbers out of range
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = 0, max_new_tokens = -4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^^^^^ RL0404 `n` is out of range
  #                                             ^^^^^^^^^^^^^^^^^^^ RL0404 `max_new_tokens` is out of range
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = -0.001, epochs = 0
  #                                                                                                           ^^^^^^^^^^^ RL0404 `lr` is out of range
  #                                                                                                                        ^^^^^^^^^^ RL0404 `epochs` is out of range
}
---
# a deployment and an algorithm
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = grup, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                          ^^^^ RL0203 did you mean `group`?
  node reward = compute exact_mach(completions, answers) -> score
  #                     ^^^^^^^^^^ RL0204 did you mean `exact_match`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
deploy {
#! RL0508 did you mean `h100`?
  cluster 2 x h10
  actor.generate : vlm(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0507 no engine `vlm` for `generate`
  actor.trian : fsdp(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 did you mean `train`?
}
---
# duplicates of three kinds
algorithm wrong {
  param group : int = 4
  param group : int = 8
  #     ^^^^^ RL0205 parameter `group` is defined twice
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  model actor : policy = copy reference
  #     ^^^^^ RL0205 model `actor` is defined twice
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node reward = actor.logprob(tokens, response_mask) -> old_logp
  #    ^^^^^^ RL0205 node `reward` is defined twice
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# units
algorithm wrong {
  param group : int = 4
  param batch : int = 8 samples
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch
  #                                                                ^^^^^ RL0311 `batch` counts prompts

  node rollout = actor.generate(prompts; n = 4 prompts, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^^^^^^^^^^^^^ RL0311 `n` counts samples
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8 tokens
  #                                                                                                                       ^^^^^^^^^^^^^^^^^^^^ RL0311 `minibatch` counts prompts
}
---
# a loop full of mistakes
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max 2 carry tokens, response_mask, rollout_logp, completions, score {
  #                                                                       ^^^^^ RL0213 `talk` carries `score`, but no node in it writes that field anew
    node tool = compute calculator(completion) -> observation, done
    #                              ^^^^^^^^^^ RL0201 did you mean `completions`?
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_token = 4) -> tokens, response_mask, rollout_logp, completions
    #                                                                                 ^^^^^^^^^^^^^^^^^ RL0207 did you mean `max_new_tokens`?
    node step = actor.train policy_loss(tokens, response_mask, rollout_logp, advantages) with lr = 0.001
    #    ^^^^ RL0214 `step` trains a model inside `talk`
    #           ^^^^^ RL0302 `policy_loss` needs `old_logp`
  }
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a collecting loop full of mistakes
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  loop again max 0 collect tokns, right where right {
  #              ^ RL0404 `max` is out of range
  #                        ^^^^^ RL0201 did you mean `tokens`?
  #                                           ^^^^^ RL0301 `right` cannot say which prompts to keep
    node r = actor.generate(prompts; n = grup, max_new_tokens = 4) -> t, m, l, c
    #                                    ^^^^ RL0203 did you mean `group`?
    node s = compute exact_match(c, answers) -> right
  }
  metric kept = mean(right)
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a validation full of mistakes
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  validate test every 0 {
  #                   ^ RL0404 `every` is out of range
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = -4
    #                                                                        ^^ RL0404 `batch` is out of range
    node r = actor.generate(prompt; max_new_tokens = 4) -> t, m, l, c
    #                       ^^^^^^ RL0201 did you mean `prompts`?
    node s = compute exact_match(c, answers) -> right
    metric accuracy = median(right)
    #                 ^^^^^^ RL0210 did you mean `mean`?
    output rows = right with evry = 10
    #                        ^^^^^^^^^ RL0207 did you mean `every`?
  }
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# conditions
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp after rewrd
  #                                                                 ^^^^^ RL0208 did you mean `reward`?
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coeff > 0 and group
  #                                                                    ^^^^^^^^ RL0203 did you mean `kl_coef`?
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp; kl_coef) with lr = 0.001, minibatch = 3, epochs = none
  #                                                                                  ^^^^^^^^ RL0307 `ref_logp` is only there when `ref` runs
  #                                                                                                                                     ^^^^^^^^^^^^^ RL0304 `epochs` must be of type int
}
---
# methods and functions
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.sample(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                    ^^^^^^ RL0206 unknown method of a model `sample`
  node reward = compute policy_loss(completions, answers) -> score
  #                     ^^^^^^^^^^^ RL0308 `policy_loss` is a loss: a model trains on it
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.value(tokens, response_mask) -> ref_logp when kl_coef > 0
  #          ^^^^^^^^^ RL0308 `reference` is a policy model: it has no `value`
  node advantage = compute groupadvantage(score; group) -> advantages
  #                        ^^^^^^^^^^^^^^ RL0204 did you mean `group_advantage`?
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a missing file, an unknown field, a bad range
use "missing.py"
#! RL0101 cannot read `missing.py`: No such file or directory

algorithm wrong {
  param group : int = 4 in [8, 2]
  #     ^^^^^ RL0406 the range of `group` ends before it begins
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute brevity(completion, answers) -> score
  #                             ^^^^^^^^^^ RL0201 did you mean `completions`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a missing import and two mistakes of one's own
import "missing.rl"
#! RL0101 did you mean `poison.rl`?

algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(tokens, answers) -> score
  #                                 ^^^^^^ RL0301 `tokens` has the wrong type for `completions` of `exact_match`
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = "fast", minibatch = 8
  #                                                                                                           ^^^^^^^^^^^ RL0304 `lr` must be of type float
}
---
# shared trunks, adapters and copies
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor with lora_rank = 8
  #                                            ^^^^^^^^^^^^^ RL0309 `reference` has no weights of its own to train, so it takes no adapters
  model critic : value = shared reference
  #     ^^^^^^ RL0313 a trunk cannot be shared so: `reference` is no policy of its own that is trained
  model judge : reward = copy judge
  #     ^^^^^ RL0401 these models are copies of each other: judge -> judge
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, values = advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
  #                                                                      ^^^^^^^^^^^^^^^^^^^ RL0303 `policy_loss` has no parameter for `values`
}
---
# strings, brackets and braces
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl) with batch
  #                                             ^^^^^^^^^^^^^^^^^^^^^^^ RL0102 this string is not closed

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers -> score
  #                                                      ^^ RL0102 the bracket `(` is not closed
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group] -> advantages
  #                                                    ^ RL0102 `(` is closed by `]`
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr == 0.001, minibatch = 8
  #                                                                                                              ^^ RL0102 a value is given with `=`
}
