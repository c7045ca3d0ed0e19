# an axis that the engine has not
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(tp = 2)
  #                  ^^^^^^ RL0506 `fsdp` has no parallel axis `tp`
}
---
# a layout of no ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(dp = 0)
  #                  ^^^^^^ RL0404 `dp` is out of range
}
---
# a layout of another type
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(dp = "two")
  #                  ^^^^^^^^^^ RL0304 `dp` must be of type int
}
---
# an unknown parameter in a layout
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(dp = ranks)
  #                       ^^^^^ RL0203 unknown parameter `ranks`
}
---
# a layout that cannot be computed
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp(dp = 1 // 0)
  #                       ^^^^^^ RL0304 this cannot be computed: integer division or modulo by zero
}
---
# a cluster of nothing
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
#! RL0506 a cluster has at least one device
  cluster 0 x cpu
}
---
# an unknown kind of cluster
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
#! RL0508 did you mean `h100`?
  cluster 2 x h10
}
---
# figures of hardware that make no sense
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu(memry = 8, usable = 1.5, network = "fast", link = 3, link = 4)
  #               ^^^^^^^^^ RL0207 did you mean `memory`?
  #                          ^^^^^^^^^^^^ RL0404 above 0 and at most 1
  #                                        ^^^^^^^^^^^^^^^^ RL0304 `network` must be of type float
  #                                                                    ^^^^^^^^ RL0205 `link` is given twice
}
---
# more than any hardware has
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu(host_memory = 1e300)  #! RL0404 at most 1e+09
}
---
# a phase that models have not
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.sleep : fsdp(dp = 1)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 a model has no phase `sleep`
}
---
# an unknown engine
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.generate : hff(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0507 did you mean `hf`?
}
---
# more ranks than the cluster has
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu
  actor.generate : hf(dp = 4)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate` wants 4 ranks of 2
}
---
# a training on some ranks only
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x cpu
  actor.train : fsdp(dp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.train` uses 2 of 4 ranks: weights are sharded over all of them
}
---
# --layout of an unknown engine
#$ --layout 'actor.generate : hff(dp = 2)'
#! RL0507 did you mean `hf`?
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# --cluster that is none
#$ --cluster 'four cpus'
#! RL0102 --cluster: `four cpus` is no line of a `deploy` block
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# --deploy of a file without a deployment
#$ --deploy missing.rl
#! RL0101 cannot read `missing.rl`: No such file or directory
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# ranks behind the end
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x cpu
  actor.generate : hf(dp = 2) on 3..4
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate` is on ranks that are not there
}
---
# a range that falls
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x cpu
  actor.generate : hf(dp = 2) on 3..2
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate` is on ranks that are not there
}
---
# axes that do not fill the ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 8 x cpu
  actor.generate : vllm(tp = 2, dp = 3) on 0..7
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate` has 8 ranks, and its axes fill 6
}
---
# axes without any number of ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.generate : vllm(tp = 2)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate`: how many ranks are there?
}
---
# a node that is not there
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu
  rewards on 0
# ^^^^^^^^^^^^ RL0208 did you mean `reward`?
}
---
# a node with a model on ranks of its own
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu
  rollout on 0
# ^^^^^^^^^^^^ RL0506 `rollout` runs where `actor` lies
}
---
# a node on ranks twice
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 2 x cpu
  reward on 0
  reward on 1
# ^^^^^^^^^^^ RL0205 `reward` is put on ranks twice
}
---
# experts that do not divide
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 8 x cpu
  actor.train : megatron(ep = 3)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.train`: its experts do not divide over ep
}
---
# a trained model that scores elsewhere
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 8 x cpu
  actor.infer : fsdp(dp = 4) on 4..7
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor` is trained, and scores where it trains
}
---
# a range without its end
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 8 x cpu
  actor.train : fsdp(dp = 4) on 4..
#! RL0102
}
---
# more ranks than there are in the world
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on 0..99999999999
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 a plan is for fewer ranks ... at most 16777216
}
---
# more copies than ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 8 x cpu
  actor.train : megatron(tp = 16)
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.train` wants 16 ranks of 8 ... at most 8 ranks ... tp = 16
}
---
# axes whose product is no number of ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.generate : vllm(tp = 9223372036854775807, pp = 9223372036854775807) on 0..3
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `actor.generate` wants 85070591730234615847396907784232501249 ranks of 4
}
---
# a phase whose ranks the batch does not divide over
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train    : fsdp() on 0..3
  actor.generate : hf() on 4..6
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0402 a batch of 8 prompts does not divide over dp = 3 of `rollout`
  reward on 4
}
---
# a node whose ranks the batch does not divide over
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x cpu
  reward on 0..2
# ^^^^^^^^^^^^^^ RL0402 a batch of 8 prompts does not divide over dp = 3 of `reward`
}
---
# a training over all of three ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on 0..2
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0402 the work of a step does not divide over 3 ranks
}
---
# a phase without an engine
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train on 0..3
# ^^^^^^^^^^^^^^^^^^^ RL0208 unknown node `actor.train` ... write `actor.train : fsdp() on ...` for a phase
}
---
# a head apart from its trunk
import "parts/base.rl"

algorithm wrong {
  model critic : value = shared actor
  node baseline = critic.value(tokens, response_mask) -> values
  node learn = critic.train value_loss(tokens, response_mask, values, returns = values) with lr = 0.001
}

deploy {
  actor.train  : fsdp() on 0..3
  critic.train : fsdp() on 4..7
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ RL0506 `critic` sits on the trunk of `actor`, and runs where that does ... lay out `actor.train`
}
---
# a node of a loop without the name of the loop
algorithm wrong {
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 16
  loop again max 4 collect tokens, response_mask, rollout_logp, score where useful until 8 prompts {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}

deploy {
  cluster 2 x cpu
  reward on 0
# ^^^^^^^^^^^ RL0208 unknown node `reward` ... write `again.reward`
}
---
# a loop on ranks
algorithm wrong {
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 16
  loop again max 4 collect tokens, response_mask, rollout_logp, score where useful until 8 prompts {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}

deploy {
  cluster 2 x cpu
  again on 0
# ^^^^^^^^^^ RL0506 `again` counts where the nodes of the loop run ... place these with `on`
}
---
# ranks as a list
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on 4, 5
#                          ^ RL0102 `on` takes the first and the last rank ... write such as `on 4..7`
}
---
# ranks as a difference
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on 4-7
#                          ^ RL0102 `on` takes the first and the last rank
}
---
# ranks by name
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on ranks
#                         ^^^^^ RL0102 `on` takes the first and the last rank
}
---
# half a rank
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on 0.5
#                         ^^^ RL0102 `on` takes the first and the last rank
}
---
# ranks without `on`
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() 0..3
#                      ^ RL0102 `on` is missing before the ranks ... write `on` before `0`
}
---
# a node's ranks without `on`
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  reward 0..3
#        ^ RL0102 `on` is missing before the ranks
}
---
# an engine without brackets
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp on 0..3
#               ^^^^ RL0102 an engine takes brackets ... write `fsdp()`
}
---
# ranks of no node
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  on 3
# ^^ RL0102 a node stands before `on` ... write `NODE on 3`
}
---
# ranks that are missing, and another line
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  actor.train : fsdp() on
#                      ^^ RL0102 `on` takes the first and the last rank
  actor.generate : hf()
}
---
# more than a rank has
import "parts/base.rl"

algorithm wrong {
  node rollout = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  #    ^^^^^^^ RL0810 does not fit: `rollout` needs ... more than a rank has
}

deploy {
  cluster 1 x cpu(memory = 0.12)
}
---
# no room for what an allocator leaves
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {  #! RL0811 fits only without a margin
  cluster 1 x cpu(memory = 0.17, usable = 0.8)
}
---
# no room below the device for what leaves it
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01", hidden = 512, layers = 8)
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4, max_prompt_tokens = 8) -> tokens, response_mask, rollout_logp, completions
}

deploy {  #! RL0815 what leaves the device does not fit below it
  cluster 1 x cpu(memory = 0.70, host_memory = 0.05)
}
---
# recomputation where there is room
import "parts/base.rl"

algorithm wrong {
  model actor : policy = scratch(; alphabet = "01", hidden = 256, layers = 8)
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, recompute = "full"  #! RL0812 `update`: `recompute` as set costs
}

deploy {
  cluster 1 x cpu(memory = 4)
}
---
# recomputation of another kind
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, recompute = "some"
  #                                                                                                   ^^^^^^^^^^^^^^^^^^ RL0404 `recompute` cannot be "some"
}
---
# heads that do not divide
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x h100
  actor.generate : vllm(tp = 4)  #! RL0813 2 heads do not divide over tp = 4
}
---
# experts that are not there
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
  cluster 4 x h100
  actor.train : megatron(ep = 4)  #! RL0813 `actor` has no experts to spread over ep = 4 ... leave `ep` out
}
---
# experts that do not divide over ranks that do
import "parts/base.rl"

algorithm wrong {
  param batch : int = 24 prompts
  model actor : policy = hf("Qwen/Qwen3-30B-A3B")
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 24
}

deploy {
  cluster 24 x h100
  actor.train : megatron(ep = 3)  #! RL0813 128 experts do not divide over ep = 3 ... ep = 2 or 4
}
