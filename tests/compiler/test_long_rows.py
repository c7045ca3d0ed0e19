"""Rows that a model has no positions for: what counts as a row, once for each model, and when nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, check_file
from rldsl.diagnostics import Diagnostic

EXAMPLES = Path(__file__).parents[2] / "examples"
INSTRUCT = "Qwen/Qwen2.5-7B-Instruct"  # 32,768 positions


def said(name: str, folder: Path, model: str, *changes: tuple[str, str]) -> list[Diagnostic]:
    """What is said of the long rows of an example of which some text is replaced."""
    text = (EXAMPLES / f"{name}.rl").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.rl").write_text(text)
    found = check_file(folder / f"{name}.rl", Options(settings=(f"model={model}",)))
    return [d for d in found if d.code == "RL0466"]


@pytest.mark.parametrize(
    ("new", "limit", "tokens"), [(31744, 1024, 0), (31745, 1024, 32769), (32767, 0, 0), (32768, 0, 32769)]
)
def test_a_prompt_without_a_limit_has_a_token_at_least(new: int, limit: int, tokens: int, tmp_path: Path) -> None:
    option = f"max_new_tokens = {new}, max_prompt_tokens = {limit}"
    found = said("grpo", tmp_path, INSTRUCT, ("max_new_tokens = 24", option))
    assert [d.message for d in found] == (
        [f"rows of `rollout` may have {tokens:,} tokens, and `actor` has 32,768 positions"] if tokens else []
    )


@pytest.mark.parametrize(("turn", "told"), [(10_923, ["reply"]), (10_922, []), (32_768, ["rollout"])])
def test_turns_add_up(turn: int, told: list[str], tmp_path: Path) -> None:
    """Three of them, and a token of the prompt."""
    found = said("tools", tmp_path, INSTRUCT, ("max_new_tokens = 24", f"max_new_tokens = {turn}"))
    over = [d for d in found if d.message.startswith(f"rows of `{''.join(told)}`")]
    assert len(found) == len(told) == len(over)


def test_what_a_loop_collects_is_as_long_as_it_was_made(tmp_path: Path) -> None:
    """The policy that samples has the positions, the one that scores has not."""
    old = "  node advantage"
    judged = '  model judge : policy = hf("HuggingFaceTB/SmolLM2-135M")\n'
    judged += "  node judged = judge.logprob(tokens, response_mask) -> judge_logp\n"
    judged += "  metric far = mean(judge_logp, response_mask)\n" + old
    found = said("dapo", tmp_path, INSTRUCT, ("= 24 tokens", "= 8192 tokens"), (old, judged))
    assert [d.message for d in found] == ["rows of `judged` may have 8,193 tokens, and `judge` has 8,192 positions"]


def test_scaled_rotations_reach_further(tmp_path: Path) -> None:
    config = json.loads((EXAMPLES / "models" / "Qwen2.5-7B.json").read_text())
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    model = tmp_path / "m"
    model.mkdir()
    for more, count in (({}, 1), ({"rope_scaling": scaled}, 0), ({"vocab_size": 0}, 0)):
        (model / "config.json").write_text(json.dumps({**config, **more}))
        found = said("grpo", tmp_path, str(model), ("max_new_tokens = 24", "max_new_tokens = 40000"))
        assert len(found) == count  # of a config that makes no sense nothing is known


@pytest.mark.parametrize(("model", "count"), [("Qwen/Qwen2.5-7B", 0), ("nobody/nothing", 0), (INSTRUCT, 1)])
def test_base_models_have_positions_of_their_own(model: str, count: int, tmp_path: Path) -> None:
    found = said("grpo", tmp_path, model, ("max_new_tokens = 24", "max_new_tokens = 65536"))
    assert len(found) == count and all("32,768 positions" in d.message for d in found)
