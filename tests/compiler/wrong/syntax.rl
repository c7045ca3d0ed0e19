# a misspelt word at a statement's beginning
import "parts/base.rl"

algorithm wrong {
  nod reward = compute exact_match(completions, answers) -> score
# ^^^ RL0102 did you mean `node`?
}
---
# an arrow of another kind
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers) => score
  #                                                       ^^ RL0102 a node needs `->` before its outputs
}
---
# a bracket that is not closed
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers -> score
  #                                                      ^^ RL0102 the bracket `(` is not closed
}
---
# a parameter without a default
import "parts/base.rl"

algorithm wrong {
  param group : int =
  #                 ^ RL0102 a parameter breaks off after `=`
  param other : int = 1
  metric m = mean(score) when other > group
}
---
# no arrow
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers) score
  #                                                       ^^^^^ RL0102 a node needs `->` before its outputs
}
---
# a string that is not closed
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("rows.jsonl) with batch
  #                                             ^^^^^^^^^^^^^^^^^^^^^^^ RL0102 this string is not closed
}
---
# a setting before the semicolon
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts, n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #                                      ^ RL0102 `;` is missing before settings: before it stand fields
}
---
# a constant of Python
import "parts/base.rl"

algorithm wrong {
  node advantage = compute group_advantage(score; group, scale = True) -> advantages
  #                                                              ^^^^ RL0203 unknown parameter `True`
}
---
# a loop in a loop
import "parts/base.rl"

algorithm wrong {
  loop outer max 2 carry tokens {
    loop inner max 2 carry tokens {
#   ^^^^ RL0102 `loop` cannot stand inside a `loop` block: blocks do not nest
      node a = compute exact_match(completions, answers) -> score
    }
  }
}
---
# a block that is not closed
import "parts/base.rl"

algorithm wrong {
  param group : int = 2
  #! RL0102 the `algorithm` block is not closed
---
# a statement outside of the algorithm
import "parts/base.rl"

param group : int = 4
#! RL0102 `param` stands outside of the `algorithm` block
---
# half of a condition
import "parts/base.rl"

algorithm wrong {
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef >
  #                                                                            ^ RL0102 a node breaks off after `>`
}
---
# an operator of another language
import "parts/base.rl"

algorithm wrong {
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0 && group > 1
  #                                                                                ^^ RL0102 `&&` is no operator of the language
}
---
# a comma too many
import "parts/base.rl"

algorithm wrong {
  node reward = compute exact_match(completions, answers,) -> score
  #                                                     ^ RL0102 nothing follows this comma
}
---
# an escape that is none
import "parts/base.rl"

algorithm wrong {
  input prompts, answers : text[prompt] = jsonl("rows\x.jsonl") with batch
  #                                             ^^^^^^^^^^^^^^ RL0102 this is no string
}
---
# a keyword of Python
import "parts/base.rl"

algorithm wrong {
  def reward(completions, answers):
# ^^^ RL0102 `def` begins no statement of the language
    return 1.0
}
