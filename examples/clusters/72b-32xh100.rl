# Four hosts of eight H100s for models of about 70 billion parameters: Megatron's axes to train and to score, vLLM to
# generate, all on the same ranks. States of models that an op does not use go to the host's memory.
deploy {
  cluster 32 x h100
  actor.train     : megatron(tp = 8, pp = 4)
  critic.train    : megatron(tp = 8, pp = 4)
  reference.infer : megatron(tp = 8, pp = 4)
  actor.generate  : vllm(tp = 8)
}
