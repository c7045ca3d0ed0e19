# a field that stays in its block
import "parts/base.rl"

algorithm wrong {
  validate test every 10 {
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 4
    node r = actor.generate(prompts; max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
    metric accuracy = mean(right)
  }
  metric outside = mean(right)
  #                     ^^^^^ RL0212 `right` is written inside `test` and stays there
}
---
# a field that a loop does not carry
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry tokens, response_mask, rollout_logp, completions {
    node tool  = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
  output rows = done
  #             ^^^^ RL0212 `done` is written inside `talk` and stays there
}
---
# carried, but not there before
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry tokens, words {
  #                             ^^^^^ RL0213 `talk` carries `words`, but nothing outside it writes that field
    node tool  = compute calculator(words) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, mask2, logp2, words
  }
}
---
# carried, but not written anew
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry tokens, response_mask, rollout_logp, completions, score {
  #                                                                       ^^^^^ RL0213 `talk` carries `score`, but no node in it writes that field anew
    node tool  = compute calculator(completions) -> observation, done
    node reply = actor.extend(tokens, response_mask, rollout_logp, observation, done; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  }
}
---
# a training inside a loop
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry score {
    node again = compute exact_match(completions, answers) -> score
    node inner = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001
    #    ^^^^^ RL0214 `inner` trains a model inside `talk`
  }
}
---
# a loop that collects without reading an input
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect right where useful {
  #    ^^^^^ RL0215 `again` collects prompts, but its body reads no input
    node s = compute sum_scores(a = score, b = score) -> right
    node w = compute has_spread(right; group) -> useful
  }
  metric m = mean(right)
}
---
# a field that changes its type
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry completions {
  #                     ^^^^^^^^^^^ RL0312 `talk` carries `completions`, which changes its type
    node s = compute exact_match(completions, answers) -> completions
  }
  output rows = completions
}
---
# a condition on what is carried
import "parts/base.rl"

algorithm wrong {
  loop talk max 2 carry completions {
    node s = compute rebuttal(prompts, completions) -> completions when group > 2
    #    ^ RL0307 `talk.s` writes what `talk` carries, so it cannot have a condition
  }
  output rows = completions
}
---
# a condition on what is collected
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect right where useful {
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right when group > 2
    #    ^ RL0307 `again.s` writes what `again` collects, so it cannot have a condition
    node w = compute has_spread(right?; group) -> useful
  }
  metric m = mean(right)
}
---
# a field of other prompts is collected
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect score where useful {
  #                        ^^^^^ RL0310 `again` collects `score`, which is no field of its own prompts
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
    node w = compute has_spread(right; group) -> useful
  }
  metric m = mean(score)
}
---
# an unknown field is collected
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect tokns, right where useful {
  #                        ^^^^^ RL0201 did you mean `tokens`?
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
    node w = compute has_spread(right; group) -> useful
  }
  metric m = mean(right)
}
---
# an unknown flag
import "parts/base.rl"

algorithm wrong {
  loop again max 2 collect right where usefull {
  #                                    ^^^^^^^ RL0201 did you mean `useful`?
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
    node w = compute has_spread(right; group) -> useful
  }
  metric m = mean(right)
}
---
# a loop that collects at most nothing
import "parts/base.rl"

algorithm wrong {
  loop again max 0 collect right where useful {
  #              ^ RL0404 `max` is out of range
    node r = actor.generate(prompts; n = group, max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
    node w = compute has_spread(right; group) -> useful
  }
  metric m = mean(right)
}
---
# a validation in no step
import "parts/base.rl"

algorithm wrong {
  validate test every 0 {
  #                   ^ RL0404 `every` is out of range
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 4
    node s = compute exact_match(prompts, answers) -> right
    metric accuracy = mean(right)
  }
}
---
# a block and a node of one name
import "parts/base.rl"

algorithm wrong {
  loop reward max 2 carry score {
  #    ^^^^^^ RL0205 block `reward` is defined twice
    node again = compute exact_match(completions, answers) -> score
  }
}
---
# a circle of fields
import "parts/base.rl"

algorithm wrong {
  node reward = compute group_advantage(advantages; group) -> score
  #    ^^^^^^ RL0401 these nodes wait for each other: reward -> advantage -> reward
}
