"""One algorithm that uses everything the language has, in both forms, and a small one that tests bend."""

from __future__ import annotations

from pathlib import Path

MINE = """\
import rldsl as rl


def brevity(completions: str, answers: str, *, weight: float = 1.0) -> float:
    return weight / (1 + len(completions))


def useful(score: rl.PerSample, *, group: int) -> rl.PromptFlag:
    return score.view(-1, group).std(1) > 0


def tool(completions: str) -> tuple[str, bool]:
    return completions, True
"""

COMMON = """\
import rldsl as rl

alphabet = rl.param("01=")
actor = rl.policy("actor", rl.scratch(alphabet=alphabet), lora_rank=8, lora_alpha=16.0, lora_targets="all-linear")
"""

EVERYTHING_PY = '''\
"""Every construct of the language."""

from typing import Annotated

from common import actor

import rldsl as rl

rl.algorithm("everything")
mine = rl.use("mine.py")

batch = rl.param(4, ge=1, unit="prompts")
group, clip = rl.param(2, ge=1, le=64), rl.param(0.2, gt=0, le=1)
kl_coef = rl.param(0.0, ge=0)
aggregate = rl.param("token_mean", choices=("token_mean", "sequence_sum"))
turns = rl.param(2)
tested = rl.param(True)

critic = rl.value("critic", shared=actor)
reference = rl.policy("reference", frozen=actor)
judge = rl.reward("judge", rl.hf("judge", precision="bf16"), frozen=True)
second = rl.reward("second", copy=judge)

rl.inputs("prompts", "answers", source=rl.jsonl("rows.jsonl", shuffle=False), batch=batch)

KEPT = ("tokens", "response_mask", "rollout_logp", "completions", "score", "answers")
CARRIED = ("tokens", "response_mask", "rollout_logp", "completions")

with rl.loop("resample", max=4, collect=KEPT, where="useful", until=rl.count(4, "prompts")):

    @rl.node(role=rl.ACTOR, type=rl.MODEL_INFERENCE)
    def rollout(prompts: rl.Prompts) -> rl.Rollout:
        return actor.generate(prompts, n=group, max_new_tokens=4, staleness=1)

    @rl.node(role=rl.REWARD)
    def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
        return mine.brevity(completions, answers, weight=1 - clip)

    @rl.node
    def useful(score: rl.Score) -> Annotated[rl.PromptFlag, "useful"]:
        return mine.useful(score)


with rl.loop("dialogue", max=turns, carry=CARRIED):

    @rl.node
    def tool(completions: rl.Completions) -> tuple[rl.Observation, rl.Done]:
        return mine.tool(completions)

    @rl.node(after=tool)
    def act(
        tokens: rl.TokenIds,
        response_mask: rl.Mask,
        rollout_logp: rl.RolloutLogp,
        observation: rl.Observation,
        done: rl.Done | None = None,
    ) -> rl.Rollout:
        return actor.extend(tokens, response_mask, rollout_logp, observation, done, max_new_tokens=4, temperature=0.7)


@rl.node(when=(kl_coef > 0) & tested)
def ref(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.RefLogp:
    return reference.logprob(tokens, response_mask, temperature=0.7)


@rl.node(name="verdict")
def judged(tokens: rl.TokenIds, response_mask: rl.Mask) -> Annotated[rl.PerSample, "verdict"]:
    return judge.score(tokens, response_mask)


rl.metric("accuracy", mean="score")


@rl.node
def values(tokens: rl.TokenIds, response_mask: rl.Mask) -> rl.Values:
    return critic.value(tokens, response_mask)


@rl.node(role="MIXER")
def total(score: rl.Score, verdict: Annotated[rl.PerSample, "verdict"]) -> Annotated[rl.PerSample, "total"]:
    return rl.lib.sum_scores(score, b=verdict)


@rl.node
def advantage(total: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(total, group=group)


@rl.node
def update(
    tokens: rl.TokenIds,
    response_mask: rl.Mask,
    advantages: rl.GroupAdvantages,
    rollout_logp: rl.RolloutLogp,
    ref_logp: rl.RefLogp | None = None,
) -> rl.Metrics:
    loss = rl.lib.policy_loss(
        tokens, response_mask, advantages, ref_logp, old_logp=rollout_logp, clip=clip, kl_coef=kl_coef
    )
    return actor.train(loss, lr=1e-4, aggregate=aggregate, minibatch=batch // 2)


rl.metric("kl", mean="ref_logp?", mask="response_mask", when=kl_coef > 0)
rl.metric("best", max="score")
rl.output("samples", "answers", "completions", "score", "ref_logp?", every=10)
rl.output("scores", "score", when=~tested)

with rl.validate("test", every=turns * 5):
    rl.inputs("prompts", "answers", source=rl.jsonl("test.jsonl"), batch=2)

    @rl.node(name="rollout")
    def test_rollout(prompts: rl.Prompts) -> rl.Rollout:
        return actor.generate(prompts, max_new_tokens=4, temperature=0.0)

    @rl.node(name="reward")
    def test_reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
        return rl.lib.exact_match(completions, answers)

    rl.metric("accuracy", mean="score")

rl.deploy(cluster=(2, "cpu"), memory=6, usable=0.5)
rl.layout(actor, "generate", "hf", dp=2)

if __name__ == "__main__" and rl.check():
    rl.compile(settings={"clip": 0.1}, world_size=2).write("plan.json")
'''

EVERYTHING_RL = """\
use "mine.py"

algorithm everything {
  param alphabet : str = "01="
  param batch : int = 4 prompts in [1, )
  param group : int = 2 in [1, 64]
  param clip : float = 0.2 in (0, 1]
  param kl_coef : float = 0.0 in [0, )
  param aggregate : str = "token_mean" in {"token_mean", "sequence_sum"}
  param turns : int = 2
  param tested : bool = true

  model actor : policy = scratch(; alphabet) with lora_rank = 8, lora_alpha = 16.0, lora_targets = "all-linear"
  model critic : value = shared actor
  model reference : policy = frozen actor
  model judge : reward = frozen hf("judge"; precision = "bf16")
  model second : reward = copy judge

  input prompts, answers : text[prompt] = jsonl("rows.jsonl"; shuffle = false) with batch

  loop resample max 4 collect tokens, response_mask, rollout_logp, completions, score, answers where useful until 4 prompts {
    node rollout : ACTOR = actor.generate(prompts; n = group, max_new_tokens = 4, staleness = 1) -> tokens, response_mask, rollout_logp, completions
    node reward : REWARD = compute brevity(completions, answers; weight = 1 - clip) -> score
    node useful = compute useful(score) -> useful
  }

  loop dialogue max turns carry tokens, response_mask, rollout_logp, completions {
    node tool = compute tool(completions) -> observation, done
    node act = actor.extend(tokens, response_mask, rollout_logp, observation, done?; max_new_tokens = 4, temperature = 0.7) -> tokens, response_mask, rollout_logp, completions after tool
  }

  node ref = reference.logprob(tokens, response_mask; temperature = 0.7) -> ref_logp when kl_coef > 0 and tested
  node verdict = judge.score(tokens, response_mask) -> verdict
  metric accuracy = mean(score)
  node values = critic.value(tokens, response_mask) -> values
  node total : MIXER = compute sum_scores(score, b = verdict) -> total
  node advantage = compute group_advantage(total; group) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, advantages, ref_logp?, old_logp = rollout_logp; clip, kl_coef) with lr = 0.0001, aggregate, minibatch = batch // 2
  metric kl = mean(ref_logp?, response_mask) when kl_coef > 0
  metric best = max(score)
  output samples = answers, completions, score, ref_logp? with every = 10
  output scores = score when not tested

  validate test every turns * 5 {
    input prompts, answers : text[prompt] = jsonl("test.jsonl") with batch = 2
    node rollout = actor.generate(prompts; max_new_tokens = 4, temperature = 0.0) -> tokens, response_mask, rollout_logp, completions
    node reward = compute exact_match(completions, answers) -> score
    metric accuracy = mean(score)
  }
}

deploy {
  cluster 2 x cpu(memory = 6, usable = 0.5)
  actor.generate : hf(dp = 2)
}
"""

SMALL = """\
import rldsl as rl

lr = rl.param(0.01, gt=0)
actor = rl.policy("actor", rl.scratch(alphabet="01"))
rl.inputs("prompts", "answers", source=rl.jsonl("rows.jsonl"), batch=4)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=2, max_new_tokens=4)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:
    return rl.lib.exact_match(completions, answers)


@rl.node
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score)


@rl.node
def update(
    tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.GroupAdvantages, rollout_logp: rl.RolloutLogp
) -> rl.Metrics:
    return actor.train(rl.lib.policy_loss(tokens, response_mask, advantages, old_logp=rollout_logp), lr=lr)
"""


def write_everything(folder: Path) -> Path:
    """All files of the large algorithm; the path without its suffix."""
    for name, text in {
        "mine.py": MINE,
        "common.py": COMMON,
        "everything.py": EVERYTHING_PY,
        "everything.rl": EVERYTHING_RL,
    }.items():
        (folder / name).write_text(text)
    return folder / "everything"
