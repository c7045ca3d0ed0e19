# Four processes of this machine: two train and score, two generate and reward.
deploy {
  cluster 4 x cpu
  actor.train    : fsdp() on 0..1
  actor.generate : hf() on 2..3
  reward on 2..3
}
