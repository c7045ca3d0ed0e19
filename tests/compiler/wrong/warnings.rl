# a node that nothing reads
import "parts/base.rl"

algorithm wrong {
  node idle = compute exact_match(completions, answers) -> nothing
  #    ^^^^ RL0451 nothing reads `nothing` of `idle`, so it will not run
}
---
# a loop that nothing reads
import "parts/base.rl"

algorithm wrong {
  node first = compute rebuttal(prompts, completions) -> words
  loop talk max 2 carry words {
  #    ^^^^ RL0451 nothing reads what `talk` carries, so it will not run
    node more = compute rebuttal(prompts, words) -> words
  }
}
---
# a parameter that nothing reads
import "parts/base.rl"

algorithm wrong {
  param unread : int = 1
  #     ^^^^^^ RL0452 nothing reads parameter `unread`
}
---
# a model that nothing uses
import "parts/base.rl"

algorithm wrong {
  model idle : policy = copy actor
  #     ^^^^ RL0453 no node uses model `idle`
}
---
# groups of one
#! base.rl:16 RL0454 groups have one sample, so `group_advantage` is 0 for every sample
import "parts/base.rl"

algorithm wrong {
  param group : int = 1
}
---
# a learning rate of 0
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.0
  #                                                                                       ^^^^^^^^ RL0455 `update` trains with a learning rate of 0, so the weights of `actor` stay as they are
}
---
# a KL coefficient without a reference
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages; kl_coef) with lr = 0.001
  #                                                                                  ^^^^^^^ RL0456 `kl_coef` of `policy_loss` does nothing without `ref_logp`
}
---
# truncation without the sampler's log-probs
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages; tis_cap = 2.0) with lr = 0.001
  #                                                                                  ^^^^^^^^^^^^^ RL0456 `tis_cap` of `policy_loss` does nothing without `rollout_logp`
}
---
# older samples, and nothing corrects for it
#! base.rl:17 RL0457 `rollout` samples with older weights, and `update` does not correct for it
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4, staleness = 1) -> tokens, response_mask, rollout_logp, completions
}
---
# a validation of which nothing comes
import "parts/base.rl"

algorithm wrong {
  validate test every 10 {
  #        ^^^^ RL0458 `test` has neither metric nor output, so nothing comes of it
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 4
    node r = actor.generate(prompts; max_new_tokens = 4) -> t, m, l, c
    node s = compute exact_match(c, answers) -> right
  }
}
---
# a layout for what is not done
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  reference.train : fsdp(dp = 1)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0459 `reference.train` has a layout, but no node trains `reference`
  reference.generate : hf(dp = 1)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0459 `reference.generate` has a layout, but no node samples from `reference`
}
---
# a ratio to a third model
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp = ref_logp, advantages) with lr = 0.001 when kl_coef > 0
  #                                                            ^^^^^^^^^^^^^^^^^^^ RL0460 `old_logp` of `policy_loss` is of `reference`, but `actor` sampled
}
---
# greedy samples
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4, temperature = 0.0) -> tokens, response_mask, rollout_logp, completions
  #                                                                     ^^^^^^^^^^^^^^^^^ RL0461 `rollout` decodes greedily, so all samples of a prompt are the same
}
---
# several steps of an on-policy loss
import "parts/base.rl"

algorithm wrong {
  node update = actor.train reinforce_loss(tokens, response_mask, advantages) with lr = 0.001, epochs = 2
  #                                                                                            ^^^^^^^^^^ RL0462 `reinforce_loss` is for one optimiser step on a batch, and takes 2: later ones are off-policy
}
---
# a critic that nothing trains
import "parts/base.rl"

algorithm wrong {
  model critic : value = copy actor
  #     ^^^^^^ RL0463 no node trains `critic`, so its values stay as they begin
  node baseline = critic.value(tokens, response_mask) -> values
  metric v = mean(values, response_mask)
}
---
# a file of which nothing is called
use "parts/functions.py"
#! RL0464 no node calls a function of `parts/functions.py`
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# ranks that nothing runs on
#! RL0465 ranks 6 to 7 of 8 have nothing to do
#$ --cluster "8 x cpu" --layout "actor.train : fsdp(dp = 4) on 0..3" --layout "actor.generate : hf(dp = 2) on 4..5"
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# rows that the model has no positions for
import "parts/base.rl"

algorithm wrong {
  model actor : policy = hf("Qwen/Qwen2.5-7B-Instruct")
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 32000, max_prompt_tokens = 769) -> tokens, response_mask, rollout_logp, completions
  #                                                 ^^^^^^^^^^^^^^^^^^^^^^ RL0466 rows of `rollout` may have 32,769 tokens, and `actor` has 32,768 positions ... lower `max_new_tokens` to 31,999, or 
}
---
# rows that only the model which judges them has no positions for
import "parts/base.rl"

algorithm wrong {
  model actor : policy = hf("Qwen/Qwen2.5-7B")
  model reference : policy = hf("HuggingFaceTB/SmolLM2-135M")
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 8192) -> tokens, response_mask, rollout_logp, completions
  node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  #          ^^^^^^^^^ RL0466 rows of `ref` may have 8,193 tokens, and `reference` has 8,192 positions ... lower `max_new_tokens` of what makes them, or 
}
