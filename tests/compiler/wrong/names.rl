# an unknown field
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completion, answers) -> score
  #                                 ^^^^^^^^^^ RL0201 did you mean `completions`?
}
---
# a field of a metric
import "parts/base.rl"

algorithm wrong {
  metric accuracy = mean(scores)
  #                      ^^^^^^ RL0201 did you mean `score`?
}
---
# an unknown model
import "parts/base.rl"

algorithm wrong {
  node rollout = acter.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #              ^^^^^ RL0202 did you mean `actor`?
}
---
# a copy of an unknown model
import "parts/base.rl"

algorithm wrong {
  model critic : value = copy acter
  #                           ^^^^^ RL0202 did you mean `actor`?
  node baseline = critic.value(tokens, response_mask) -> values
  metric v = mean(values, response_mask)
}
---
# an unknown model in a deployment
import "parts/base.rl"

algorithm wrong {
}

deploy {
  acter.train : fsdp(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0202 did you mean `actor`?
}
---
# an unknown parameter
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = grup, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                          ^^^^ RL0203 did you mean `group`?
}
---
# an unknown parameter in a condition
import "parts/base.rl"

algorithm wrong {
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coeff > 0
  #                                                                    ^^^^^^^^ RL0203 did you mean `kl_coef`?
}
---
# --set of an unknown parameter
#$ --set grup=3
#! RL0203 did you mean `group`?
import "parts/base.rl"

algorithm wrong {
  param other : int = 2
  metric m = mean(score) when other > 1
}
---
# an unknown function
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_mach(completions, answers) -> score
  #                     ^^^^^^^^^^ RL0204 did you mean `exact_match`?
}
---
# an unknown method
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generat(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                    ^^^^^^^ RL0206 did you mean `generate`?
}
---
# a method of no model
import "parts/base.rl"

algorithm wrong {
  node x = actor.metric(tokens) -> y
  #              ^^^^^^ RL0206 unknown method of a model `metric`
}
---
# an unknown setting
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4, temprature = 1.0) -> tokens, response_mask, rollout_logp, completions
  #                                                                     ^^^^^^^^^^^^^^^^ RL0207 did you mean `temperature`?
}
---
# an unknown option
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, mini_batch = 8
  #                                                                                                   ^^^^^^^^^^^^^^ RL0207 did you mean `minibatch`?
}
---
# an unknown option of an input
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch, shuffle = true
  #                                                                       ^^^^^^^^^^^^^^ RL0207 an input has no option `shuffle`
}
---
# an unknown option of a model
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01") with lora_rnk = 8
  #                                                      ^^^^^^^^^^^^ RL0207 did you mean `lora_rank`?
}
---
# an unknown setting of a source
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01", layer = 2)
  #                                                 ^^^^^^^^^ RL0207 did you mean `layers`?
}
---
# an unknown node behind after
import "parts/base.rl"

algorithm wrong {
  node old = actor.logprob(tokens, response_mask) -> old_logp after rewrd
  #                                                                 ^^^^^ RL0208 did you mean `reward`?
}
---
# an unknown source of weights
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scrach(; alphabet = "01")
  #                      ^^^^^^^^^^^^^^^^^^^^^^^^^ RL0209 did you mean `scratch`?
}
---
# an unknown source of rows
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = json("rows.jsonl") with batch
  #                                       ^^^^^^^^^^^^^^^^^^ RL0209 did you mean `jsonl`?
}
