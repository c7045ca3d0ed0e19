# a parameter without a field
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions) -> score
  #                     ^^^^^^^^^^^ RL0302 `exact_match` needs `answers`
}
---
# no learning rate
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with minibatch = 8
  #             ^^^^^ RL0302 `actor.train` needs `with lr = ...`
}
---
# no number of tokens
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group) -> tokens, response_mask, rollout_logp, completions
  #              ^^^^^ RL0302 `actor.generate` needs `max_new_tokens = ...`
}
---
# no batch
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("rows.jsonl")
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0302 an input does not say how many prompts a step takes
}
---
# no alphabet
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch()
  #                      ^^^^^^^^^ RL0302 `scratch` needs `alphabet = ...`
}
---
# no path
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl() with batch
  #                                       ^^^^^^^ RL0302 `jsonl` needs `path`
}
---
# no loss
import "parts/base.rl"

algorithm wrong {
  node update = actor.train(tokens, response_mask) with lr = 0.001
  #             ^^^^^ RL0302 `train` needs a loss function
}
---
# no field at all
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match() -> score
  #                     ^^^^^^^^^^^ RL0302 `exact_match` is given no field: there would be no rows to compute on
}
---
# a field too many
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers, prompts) -> score
  #                                                       ^^^^^^^ RL0303 `exact_match` has no parameter for `prompts`
}
---
# a field for a parameter that is none
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answer = answers) -> score
  #                                              ^^^^^^^^^^^^^^^^ RL0303 did you mean `answers`?
}
---
# two values for one parameter of a source
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("a.jsonl", "b.jsonl") with batch
  #                                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0303 `jsonl` takes 1 unnamed values
}
---
# an option of another type
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = "fast"
  #                                                                                       ^^^^^^^^^^^ RL0304 `lr` must be of type float
}
---
# half a sample
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group / 3, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^^^^^^^^^^^^^ RL0304 `n` must be of type int
}
---
# a division by zero
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group // 0, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                          ^^^^^^^^^^ RL0304 this cannot be computed: integer division or modulo by zero
}
---
# a name too many behind the arrow
import "parts/base.rl"

algorithm wrong {
  node advantage = compute group_advantage(score; group) -> advantages, returns
  #    ^^^^^^^^^ RL0306 `group_advantage` gives 1 field, but `advantage` names 2
}
---
# no name behind the arrow
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers)
  #    ^^^^^^ RL0306 `exact_match` gives 1 field, but `reward` names 0
}
---
# a loss that is computed
import "parts/base.rl"

algorithm wrong {
  node reward = compute policy_loss(tokens) -> score
  #                     ^^^^^^^^^^^ RL0308 `policy_loss` is a loss: a model trains on it
}
---
# a reward that is trained on
import "parts/base.rl"

algorithm wrong {
  node update = actor.train exact_match(tokens, response_mask) with lr = 0.001
  #             ^^^^^ RL0308 `exact_match` is no loss
}
---
# values of a policy
import "parts/base.rl"

algorithm wrong {
  node old = actor.value(tokens, response_mask) -> old_logp
  #          ^^^^^ RL0308 `actor` is a policy model: it has no `value`
}
---
# training of a frozen model
import "parts/base.rl"

algorithm wrong {
  node update = reference.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001
  #             ^^^^^^^^^ RL0309 `reference` is frozen and cannot be trained
}
---
# a learning rate below 0
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = -1.0
  #                                                                                       ^^^^^^^^^ RL0404 `lr` is out of range
}
---
# no samples
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = 0, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^^^^^ RL0404 `n` is out of range
}
---
# a precision that is none
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01", precision = "fp8")
  #                                                 ^^^^^^^^^^^^^^^^^ RL0404 `precision` cannot be "fp8"
}
---
# an empty alphabet
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "")
  #                      ^^^^^^^^^^^^^^^^^^^^^^^^ RL0404 `alphabet` has no characters
}
---
# another group than the rollout's
import "parts/base.rl"

algorithm wrong {
  node advantage = compute group_advantage(score; group = 3) -> advantages
  #                                               ^^^^^^^^^ RL0404 `group` must be the number of samples a prompt, 4
}
---
# leave-one-out of one
import "parts/base.rl"

algorithm wrong {
  param group : int = 1
  node advantage = compute rloo_advantage(score; group) -> advantages
  #                        ^^^^^^^^^^^^^^ RL0404 `rloo_advantage` compares a sample with the others of its group, and there are none
}
---
# n of a rollout that goes on from samples
import "parts/base.rl"

algorithm wrong {
  node second = actor.generate(completions; n = 2, max_new_tokens = 4) -> t2, m2, l2, c2
  #                                         ^^^^^ RL0405 `second` goes on from samples, and gives one response to each
  output rows = c2
}
