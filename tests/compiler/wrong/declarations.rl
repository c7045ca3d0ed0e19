# two parameters of one name
import "parts/base.rl"

algorithm wrong {
  param other : int = 1
  param other : int = 2
  #     ^^^^^ RL0205 parameter `other` is defined twice
  metric m = mean(score) when other > 1
}
---
# two nodes of one name
import "parts/base.rl"

algorithm wrong {
  node again = compute exact_match(completions, answers) -> one
  node again = compute exact_match(completions, answers) -> two
  #    ^^^^^ RL0205 node `again` is defined twice
  metric m = mean(one)
  metric n = mean(two)
}
---
# two nodes write one field
import "parts/base.rl"

algorithm wrong {
  node twice = compute exact_match(completions, answers) -> right
  node again = compute exact_match(completions, answers) -> right
  #    ^^^^^ RL0205 field `right` is defined twice
  metric m = mean(right)
}
---
# one model, two kinds
import "parts/base.rl"

algorithm wrong {
  model judge : reward = scratch(; alphabet = "01")
  model judge : value = copy actor
  #     ^^^^^ RL0205 model `judge` is defined twice
  node s = judge.score(tokens, response_mask) -> judged
  metric m = mean(judged)
}
---
# a setting given twice
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group, n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                                 ^^^^^ RL0205 `n` is given twice
}
---
# two algorithms in a file
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

algorithm second {
#! RL0205 a file holds one `algorithm` block; this is another
  param other : int = 1
}
---
# two layouts of one phase
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(dp = 1)
  actor.train : fsdp(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0205 `actor.train` has two layouts
}
---
# a parameter of an unknown type
import "parts/base.rl"

algorithm wrong {
  param group : integer = 4
  #             ^^^^^^^ RL0210 did you mean `int`?
}
---
# a model of an unknown kind
import "parts/base.rl"

algorithm wrong {
  model actor : polcy = scratch(; alphabet = "01")
  #             ^^^^^ RL0210 did you mean `policy`?
}
---
# a field of an unknown type
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : string[prompt] = jsonl("rows.jsonl") with batch
  #                        ^^^^^^^^^^^^^^ RL0210 unknown dtype `string`; the dtypes are f32, i64, bool, text
}
---
# axes that are none
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[token] = jsonl("rows.jsonl") with batch
  #                        ^^^^^^^^^^^ RL0210 axes must be `prompt` or `sample`, then at most `token`; found `token`
}
---
# an unknown type of a node
import "parts/base.rl"

algorithm wrong {
  node reward : JUDGE, COMPUTING = compute exact_match(completions, answers) -> score
  #                    ^^^^^^^^^ RL0210 did you mean `COMPUTE`?
}
---
# an unknown reduction
import "parts/base.rl"

algorithm wrong {
  metric m = median(score)
  #          ^^^^^^ RL0210 did you mean `mean`?
}
---
# a default of another type
import "parts/base.rl"

algorithm wrong {
  param group : int = 4.5
  #     ^^^^^ RL0304 the default of `group` is no int
}
---
# a default that is out of range
import "parts/base.rl"

algorithm wrong {
  param group : int = 1 in [2, )
  #     ^^^^^ RL0404 `group` is out of range
}
---
# a default that is no choice
import "parts/base.rl"

algorithm wrong {
  param words : str = "fp8" in {"fp32", "bf16"}
  #     ^^^^^ RL0404 `words` cannot be "fp8"
  model actor : policy = scratch(; alphabet = "01", precision = words)
}
---
# a range that ends before it begins
import "parts/base.rl"

algorithm wrong {
  param group : int = 4 in [8, 2]
  #     ^^^^^ RL0406 the range of `group` ends before it begins
}
---
# a range without a value
import "parts/base.rl"

algorithm wrong {
  param group : int = 4 in (4, 5)
  #     ^^^^^ RL0406 the range of `group` holds no value
}
---
# an interval of words
import "parts/base.rl"

algorithm wrong {
  param words : str = "fp32" in [0, 1]
  #     ^^^^^ RL0406 the range of `words` is an interval
  model actor : policy = scratch(; alphabet = "01", precision = words)
}
---
# choices of another type
import "parts/base.rl"

algorithm wrong {
  param group : int = 4 in {4, "eight"}
  #     ^^^^^ RL0406 the range of `group` holds "eight"
}
---
# --set of another type
#$ --set group=many
#! base.rl:3 RL0304 --set: `group` is of type int
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# --set without a value
#$ --set group
#! RL0304 --set: `group` is no setting
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# --set out of range
#$ --set group=9
import "parts/base.rl"

algorithm wrong {
  param group : int = 4 in [2, 8]
  #     ^^^^^ RL0404 `group` is out of range
}
---
# --set of no finite number
#$ --set kl_coef=nan
#! base.rl:5 RL0304 --set: `kl_coef` is of type float
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# a negative seed
import "parts/base.rl"

algorithm wrong {
  param seed : int = -1
  #     ^^^^ RL0404 `seed` seeds sampling and the order of the data
}
---
# copies of each other
import "parts/base.rl"

algorithm wrong {
  model a : policy = copy b
  #     ^ RL0401 these models are copies of each other: a -> b -> a
  model b : policy = copy a
}
---
# a trunk of a frozen model
import "parts/base.rl"

algorithm wrong {
  model critic : value = shared reference
  #     ^^^^^^ RL0313 a trunk cannot be shared so: `reference` is no policy of its own that is trained
  node baseline = critic.value(tokens, response_mask) -> values
  node fit = critic.train value_loss(tokens, response_mask, values, returns = values) with lr = 0.001
}
---
# a trunk under a policy
import "parts/base.rl"

algorithm wrong {
  model other : policy = shared actor
  #     ^^^^^ RL0313 a trunk cannot be shared so: `other` is a policy model, and only a value model's head sits on another's trunk
  node l = other.logprob(tokens, response_mask) -> logp2
  metric m = mean(logp2, response_mask)
}
---
# adapters on a frozen model
import "parts/base.rl"

algorithm wrong {
  model reference : policy = frozen actor with lora_rank = 8
  #                                            ^^^^^^^^^^^^^ RL0309 `reference` has no weights of its own to train, so it takes no adapters
}
---
# adapters without a rank
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01") with lora_alpha = 16
  #                                                      ^^^^^^^^^^^^^^^ RL0302 `actor` needs `lora_rank = ...`
}
