"""The optimised plan and the reference interpreter, which runs the graph as written, give the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rldsl.backends import local
from rldsl.backends.data.batch import Ragged
from rldsl.backends.reference import Reference
from rldsl.compiler.ir import Module
from rldsl.compiler.pipeline import Options, compile_file

HEAD = """
  param kl_coef : float = 0.0
  param seed : int = 3
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 32)
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl"; shuffle = true) with batch = 4
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 5, temperature = 0.8) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute char_accuracy(completions, answers) -> score
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node ref     = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
"""
GRPO = f"""algorithm grpo {{{HEAD}
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, ref_logp?; kl_coef) with lr = 1e-3
}}"""
PPO = f"""algorithm ppo {{{HEAD}
  model critic   : value = copy actor
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp?; kl_coef) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-3, epochs = 2, minibatch = 2
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-3
}}"""


def checked(path: Path, setting: str) -> Module:
    """The module as the checks leave it, before any rewrite."""
    seen: dict[str, Module] = {}
    compile_file(
        path, Options(settings=(setting,), observe=lambda name, module, _: seen.setdefault(name, module) and None)
    )
    return seen["bind_parameters"]


@pytest.mark.parametrize("kl_coef", ["0.0", "0.1"])
@pytest.mark.parametrize("text", [GRPO, PPO], ids=["grpo", "ppo"])
def test_an_optimised_plan_equals_the_graph_as_written(tmp_path: Path, text: str, kl_coef: str) -> None:
    source, setting = tmp_path / "algorithm.rl", f"kl_coef={kl_coef}"
    source.write_text(text)
    rows = [{"prompts": f"{i}=", "answers": f"{i}{i}"} for i in range(10)]
    (tmp_path / "task.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    plan = compile_file(source, Options(settings=(setting,))).plan
    local.run(plan, steps=3, world_size=1, run_dir=tmp_path / "run", observer=None, source_dir=tmp_path, timeout_s=60.0)
    reference = Reference(checked(source, setting), source_dir=tmp_path)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        got, want = json.loads(line), reference.step()
        score, tokens = want.fields["score"].data, want.fields["tokens"].data
        assert isinstance(score, torch.Tensor) and isinstance(tokens, Ragged)
        assert got["tokens"] == len(tokens.values) and got["score"] == pytest.approx(float(score.mean()), rel=1e-6)
        assert ("ref_logp" in want.fields) == (kl_coef != "0.0") and "old_logp" in want.fields
        for name in (n for n in want.metrics if n.endswith(("/loss", "/grad_norm"))):
            assert got[name] == pytest.approx(want.metrics[name], rel=1e-5, abs=1e-9), name
