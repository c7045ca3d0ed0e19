# One host of eight H100s for models of about 7 billion parameters, sharded over all of them; rollouts on engines of two.
deploy {
  cluster 8 x h100
  actor.generate : vllm(tp = 2)
}
