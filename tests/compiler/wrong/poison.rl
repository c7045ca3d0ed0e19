# an unknown field, which others are made of
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completion, answers) -> score
  #                                 ^^^^^^^^^^ RL0201 did you mean `completions`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an unknown model, and everything that is made of its rollout
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = acter.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #              ^^^^^ RL0202 did you mean `actor`?
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an unknown method
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generat(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                    ^^^^^^^ RL0206 did you mean `generate`?
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a misspelt output, which five nodes read
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokns, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  #                        ^^^^^^ RL0201 did you mean `tokns`?
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a statement that cannot be read: the model
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01"
  #                             ^ RL0102 this bracket is not closed
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a statement that cannot be read: the rollout
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4 -> tokens, response_mask, rollout_logp, completions
  #                                                                    ^^ RL0102 the bracket `(` is not closed
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a statement that cannot be read: the input
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") wiht batch
  #                                                           ^^^^ RL0102 did you mean `with`?

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a statement that cannot be read: the only training
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss[tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
  #                                    ^ RL0102 `[` does not fit in a node
}
---
# a wrong type, and what is made of it
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
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# two fields of one name, read three times
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> score
  #    ^^^ RL0205 field `score` is defined twice
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# two nodes of one name
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
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
# two parameters of one name
algorithm wrong {
  param group : int = 4
  param group : int = 8
  #     ^^^^^ RL0205 parameter `group` is defined twice
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an unknown function, and everything that reads its result
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_mach(completions, answers) -> score
  #                     ^^^^^^^^^^ RL0204 did you mean `exact_match`?
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a default of the wrong type, which settings read
algorithm wrong {
  param group : int = "four"
  #     ^^^^^ RL0304 the default of `group` is no int
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a default out of its range, which would fit nowhere
algorithm wrong {
  param group : int = 4
  param batch : int = 0 prompts in [1, )
  #     ^^^^^ RL0404 `batch` is out of range
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a parameter of an unknown type
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : flot = 0.1
  #               ^^^^ RL0210 did you mean `float`?
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a model of an unknown kind
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : polcy = frozen actor
  #                 ^^^^^ RL0210 did you mean `policy`?
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an input of an unknown type
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : txt[prompt] = jsonl("rows.jsonl") with batch
  #                        ^^^^^^^^^^^ RL0210 unknown dtype `txt`; the dtypes are f32, i64, bool, text

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an input without a batch
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl")
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0302 an input does not say how many prompts a step takes

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a source that is none
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
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
# an unreadable function
#! functions.py:11 RL0305 the signature of `no_annotation` cannot be read: parameter `completions` of `no_annotation` has no annotation
use "parts/functions.py"

algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute no_annotation(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a missing file of functions
use "missing.py"
#! RL0101 cannot read `missing.py`: No such file or directory

algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute brevity(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a missing import
import "missing.rl"
#! RL0101 did you mean `poison.rl`?

algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  # the model is imported
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# outputs that are left out
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers)
  #    ^^^^^^ RL0306 `exact_match` gives 1 field, but `reward` names 0
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# an output too few of two
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node tool = compute calculator(completions) -> observation
  #    ^^^^ RL0306 `calculator` gives 2 fields, but `tool` names 1
  output asked = observation, done
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a frozen model that is trained
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = reference.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
  #             ^^^^^^^^^ RL0309 `reference` is frozen and cannot be trained
}
---
# a value of a policy
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.value(tokens, response_mask) -> old_logp
  #          ^^^^^ RL0308 `actor` is a policy model: it has no `value`
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a circle
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(advantages; group) -> advantages
  #    ^^^^^^^^^ RL0401 these nodes wait for each other: advantage -> advantage
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a loop's head that cannot be read
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max 2 cary tokens, response_mask, rollout_logp, completions {
  #               ^^^^ RL0102 `cary` does not fit in a loop
    node tool = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a loop that carries an unknown field
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max 2 carry tokns, response_mask, rollout_logp, completions {
  #                     ^^^^^ RL0213 did you mean `tokens`?
    node tool = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a node in a loop that cannot be read
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max 2 carry tokens, response_mask, rollout_logp, completions {
    node tool = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    #                                                                                ^^^^^^^^^^^^^^ RL0102 a comma is missing between `done` and `max_new_tokens`
  }
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a block that is not closed
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max 2 carry tokens, response_mask, rollout_logp, completions {
    node tool = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions

  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
#! RL0102 the `loop` block is not closed
---
# an unknown parameter in a loop's bound
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  loop talk max turns carry tokens, response_mask, rollout_logp, completions {
  #             ^^^^^ RL0203 unknown parameter `turns`
    node tool = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
---
# a division by zero, which a minibatch is made of
algorithm wrong {
  param group : int = 4
  param batch : int = 8 prompts
  param kl_coef : float = 0.1
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node old = actor.logprob(tokens, response_mask) -> old_logp
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = batch // 0
  #                                                                                                                                   ^^^^^^^^^^ RL0304 this cannot be computed: integer division or modulo by zero
}
