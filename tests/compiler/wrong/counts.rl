# minibatches that do not divide the batch
import "parts/base.rl"

algorithm wrong {
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, minibatch = 3
  #                                                                                                   ^^^^^^^^^^^^^ RL0402 the batch of 8 prompts is not a whole number of minibatches of 3
}
---
# inputs of different batches
import "parts/base.rl"

algorithm wrong {
  input hints : text[prompt] = jsonl("hints.jsonl") with batch = 4
  #     ^^^^^ RL0402 inputs of one step must take the same number of prompts
  output rows = hints, prompts
}
---
# --set of a batch that does not divide
#$ --set batch=7
#! base.rl:17 RL0402 the batch of 7 prompts is not a whole number of minibatches of 8
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# ranks that do not divide the work
#$ --world-size 3
#! RL0402 the work of a step does not divide over 3 ranks
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}
---
# a cluster that does not divide the work
import "parts/base.rl"

algorithm wrong {
  metric m = mean(score)
}

deploy {
#! RL0402 the work of a step does not divide over 3 ranks
  cluster 3 x cpu
}
---
# nothing is trained
import "parts/base.rl"

algorithm wrong {
#         ^^^^^ RL0403 no node trains a model: nothing would come of a run
  node update = actor.logprob(tokens, response_mask) -> more
  metric m = mean(more, response_mask)
}
---
# nothing is trained with these parameters
import "parts/base.rl"

algorithm wrong {
#         ^^^^^ RL0403 with these parameters no node trains a model
  node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001 when group > 8
}
---
# nothing at all
algorithm wrong {
#         ^^^^^ RL0403 there is no algorithm here
}
---
# nothing is left to read
use "parts/functions.py"
import "parts/base.rl"

algorithm wrong {
  node penalty = compute doubled(more?) -> total
  #    ^^^^^^^ RL0302 with these parameters nothing is left for `penalty` to read
  node extra = compute exact_match(completions, answers) -> more when group > 8
  metric m = mean(total)
}
