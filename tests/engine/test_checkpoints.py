"""Checkpoints: what transformers itself would write, tensor by tensor, and never half of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rldsl.backends.engines import checkpoint
from tests.engine.tiny import CRITIC, load, perturb

SHAPE = {
    "vocab_size": 17,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    # Experts are one tensor here and one each in a checkpoint.
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 8},
    "mixtral": {"num_local_experts": 3},
    # Its router has a buffer that is saved.
    "deepseek_v3": {"n_routed_experts": 4, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_group": 1}
    | {"topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1},
}


def made(folder: Path, kind: str) -> Path:
    """A random model of this kind as transformers saves it, with our tokenizer."""
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE, **KINDS[kind]))
    module.save_pretrained(folder)
    load().tokenizer.save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def settings(folder: Path) -> dict[str, Any]:
    return {p.name: json.loads(p.read_text()) for p in folder.glob("*config.json") if "tokenizer" not in p.name}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_transformers_writes(
    tmp_path: Path, kind: str, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if several:
        # As if a weight of the checkpoint were made of several of ours.
        monkeypatch.setattr(checkpoint, "_conversion", lambda *_: None)
    source = made(tmp_path / "source", kind)
    load(source=str(source), source_args={}).save(tmp_path / "ours")
    want, found = tensors(source), tensors(tmp_path / "ours")
    assert found.keys() == want.keys()
    assert all(torch.equal(found[n], want[n]) and found[n].dtype == want[n].dtype for n in want)
    assert settings(tmp_path / "ours") == settings(source)
    assert {p.name for p in source.iterdir()} == {p.name for p in (tmp_path / "ours").iterdir()}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.parameters(), AutoModelForCausalLM.from_pretrained(source).parameters(), strict=True)
    )


def test_frozen_weights_keep_their_precision(tmp_path: Path) -> None:
    model = load(precision="bf16", trainable=False)
    model.save(tmp_path / "frozen")
    assert {t.dtype for t in tensors(tmp_path / "frozen").values()} == {torch.bfloat16}
    assert settings(tmp_path / "frozen")["config.json"]["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "frozen").state_dict()
    assert all(torch.equal(w, loaded[n]) for n, w in model.weights().items())


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_a_large_one_is_several_files_and_an_index(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made(tmp_path / "source", kind)
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 5000)
    load(source=str(source), source_args={}).save(tmp_path / "ours")
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    files = sorted(p.name for p in (tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2 and sorted(set(index["weight_map"].values())) == files
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "ours" / file)
    want = AutoModelForCausalLM.from_pretrained(source).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(found[n], w) for n, w in want.items())


def test_a_failure_midway_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    model.save(tmp_path / "checkpoint")
    before = tensors(tmp_path / "checkpoint")
    honest, calls = checkpoint._bytes, []

    def full(weight: Tensor) -> memoryview:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return honest(weight)

    monkeypatch.setattr(checkpoint, "_bytes", full)
    with pytest.raises(OSError, match="No space"):
        perturb(model).save(tmp_path / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    after = tensors(tmp_path / "checkpoint")
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_a_value_model_has_its_head(tmp_path: Path) -> None:
    critic = perturb(load(CRITIC))
    critic.save(tmp_path / "critic")
    found = tensors(tmp_path / "critic")
    assert all(torch.equal(found[n], w) for n, w in critic.weights().items())
    assert settings(tmp_path / "critic")["config.json"]["architectures"] == ["LlamaForTokenClassification"]
