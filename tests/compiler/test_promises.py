"""Every change that RL0810 offers is written as it says, compiled, and is what was promised, to the second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rldsl.compiler.cost.plan_time import PlanTime, plan_time
from rldsl.compiler.passes.memory_faults import seconds
from tests.compiler.promises import Program, promises

_HEAD = """\
  param model  : str = "Qwen/Qwen2.5-7B"
  param batch  : int = 64 prompts
  param new    : int = 1024
  model actor     : policy = hf(model; precision = "bf16"){lora}
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("prompts.jsonl") with batch
  node rollout = actor.generate(prompts; n = 8, max_new_tokens = new, max_prompt_tokens = 1024{stale}) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute last_number(completions, answers) -> score
  node ref     = reference.logprob(tokens, response_mask) -> ref_logp
"""
_GRPO = """\
  node advantage = compute group_advantage(score; group = 8) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp = rollout_logp, advantages, ref_logp; kl_coef = 0.001) with lr = 1e-6{pins}
"""
_PPO = """\
  model critic : value = copy actor
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.01) -> rewards
  node advantage = compute gae(rewards, values, response_mask; gamma = 1.0, lam = 0.95) -> advantages, returns
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 2e-6
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages; clip = 0.2) with lr = 1e-6{pins}
"""


def source(body: str, *, lora: str = "", stale: str = "", pins: str = "") -> str:
    text = (_HEAD + body).replace("{lora}", lora).replace("{stale}", stale).replace("{pins}", pins)
    return f"algorithm tried {{\n{text}}}\n"


GRPO, PPO = source(_GRPO), source(_PPO)
LORA = source(_GRPO, lora=" with lora_rank = 32")
STALE = source(_GRPO, stale=", staleness = 1")
PINNED = source(_GRPO, pins=', micro_batch_tokens = 65536, recompute = "none"')
FP32 = GRPO.replace('"bf16"', '"fp32"')
APART = ("actor.train : fsdp() on 0..3", "reference.infer : fsdp() on 0..3", "actor.generate : vllm(tp = 4) on 4..7")
MEGATRON = tuple(f"{phase} : megatron(tp = 4)" for phase in ("actor.train", "reference.infer"))
REPLICAS = ("actor.train : megatron()", "reference.infer : megatron()")
SPREAD = "actor.generate : vllm(tp = 8)"


def program(text: str, model: str, cluster: str, *layouts: str, new: int = 1024, batch: int = 64) -> Program:
    settings = (f"model=Qwen/{model}", f"new={new}", f"batch={batch}")
    return Program(text, cluster, layouts, settings)


PROGRAMS = {
    "one rank": program(GRPO, "Qwen2.5-7B", "1 x h100"),
    "one rank, small": program(GRPO, "Qwen2.5-7B", "1 x l40s"),
    "one rank, adapters": program(LORA, "Qwen2.5-32B", "1 x a100_40"),
    "one rank, adapters, large": program(LORA, "Qwen2.5-72B", "1 x h100"),
    "one rank, critic": program(PPO, "Qwen2.5-7B", "1 x a100"),
    "two ranks": program(GRPO, "Qwen2.5-32B", "2 x h100"),
    "a figure": program(PPO, "Qwen2.5-32B", "8 x h100(memory = 40, usable = 0.9)"),
    "explicit dp": program(PPO, "Qwen2.5-72B", "8 x h100", "actor.train : fsdp(dp = 8)", new=7168),
    "an engine of one rank": program(GRPO, "Qwen2.5-32B", "32 x a100_40", "actor.generate : vllm()", new=7168),
    "experts": program(GRPO, "Qwen3-30B-A3B", "8 x l40s"),
    "experts, adapters": program(LORA, "Qwen3-30B-A3B", "8 x l40s"),
    "experts, spread": program(GRPO, "Qwen3-30B-A3B", "4 x h100", "actor.generate : vllm(tp = 2)"),
    "pins": program(PINNED, "Qwen2.5-7B", "8 x h100"),
    "pins and more": program(PINNED, "Qwen2.5-32B", "8 x h100"),
    "float32": program(FP32, "Qwen2.5-32B", "8 x h100"),
    "float32, one rank": program(FP32, "Qwen2.5-7B", "1 x h100"),
    "apart": program(STALE, "Qwen2.5-32B", "8 x h100", *APART),
    "late weights": program(STALE, "Qwen2.5-32B", "8 x h100"),
    "long rows": program(PPO, "Qwen2.5-7B", "8 x h100", new=130_000),
    "long rows, cut": program(GRPO, "Qwen2.5-32B", "8 x h100", *MEGATRON, SPREAD, new=64_512),
    "long rows, many ranks": program(GRPO, "Qwen2.5-72B", "64 x h100", SPREAD, new=64_512),
    "replicas": program(LORA, "Qwen2.5-72B", "8 x h100", *REPLICAS, SPREAD),
    "states": program(PPO, "Qwen2.5-72B", "16 x h100", SPREAD),
    "states, small": program(PPO, "Qwen2.5-32B", "8 x l40s", SPREAD),
    "odd batch": program(PPO, "Qwen2.5-32B", "2 x h100", batch=24),
    "one prompt": program(GRPO, "Qwen2.5-7B", "1 x h100", batch=1),
    "--world-size": replace(program(GRPO, "Qwen2.5-32B", "4 x h100"), world_size=2),
    "--memory": replace(program(GRPO, "Qwen2.5-7B", "8 x h100"), memory=14 << 30),
    "a processor": replace(program(GRPO, "Qwen2.5-7B", "1 x cpu", batch=16), memory=24 << 30),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_promised_is_so(name: str, tmp_path: Path) -> None:
    found = PROGRAMS[name].fault(tmp_path)
    assert found is not None
    offered = promises(found)
    assert bool(offered) is (name != "one prompt"), found.notes
    for changes, promised in offered.items():
        changed = PROGRAMS[name]
        for change in changes:
            changed = changed.written(change)
        compiled = changed.compiled(tmp_path)
        assert "RL0811" not in {w.code for w in compiled.warnings}
        memory, time = compiled.plan.memory, plan_time(compiled.plan)
        assert memory is not None and memory.peak <= memory.budget and isinstance(time, PlanTime)
        assert seconds(time.step_seconds) == promised


def test_what_is_set_is_not_said_to_be_as_small_as_can_be(tmp_path: Path) -> None:
    pinned, free = (PROGRAMS[name].fault(tmp_path) for name in ("pins", "two ranks"))
    assert pinned is not None and free is not None
    assert pinned.notes[0].endswith('by then; `micro_batch_tokens = 65536` and `recompute = "none"` as set')
    assert free.notes[0].endswith("by then, micro-batches as small as the compiler makes them")


@pytest.mark.parametrize(("name", "ranks"), [("apart", "ranks 0 to 3"), ("two ranks", "every rank")])
def test_the_ranks_that_it_does_not_fit_on(name: str, ranks: str, tmp_path: Path) -> None:
    found = PROGRAMS[name].fault(tmp_path)
    assert found is not None and found.message.endswith(f" more than a rank has, on {ranks}")


def test_responses_are_cut_no_more_than_needed(tmp_path: Path) -> None:
    """With 256 tokens more there is no margin left."""
    before = PROGRAMS["long rows, many ranks"]
    found = before.fault(tmp_path)
    assert found is not None
    (tokens,) = (int(c[0].split(" = ")[1].strip("`")) for c in promises(found) if "max_new_tokens" in c[0])
    longer = before.written(f"`max_new_tokens = {tokens + 256}`").compiled(tmp_path)
    assert tokens % 256 == 0 and "RL0811" in {w.code for w in longer.warnings}
