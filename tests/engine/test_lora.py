"""Low-rank adapters: only they train, and merged they are plain weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rldsl.algos.losses import policy_loss, value_loss
from rldsl.backends import engines
from rldsl.backends.engines import lora
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.optim import Optimizer
from rldsl.compiler.ops import Arg, GenerateOp, TrainOp
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import CRITIC, SCRATCH, Rows, load, perturb, train_op, weights

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
GENERATE = GenerateOp(id="g", model="actor", prompts="p", n=4, max_new_tokens=8, temperature=1.0, outputs={})


def adapted(spec: ModelSpec = SCRATCH, **changes: object) -> Model:
    return load(spec, **{"lora_rank": 4, **changes})


def trained(model: Model, rows: Rows, steps: int = 3, lr: float = 1e-2) -> dict[str, float]:
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    op = train_op(
        lr=lr,
        epochs=steps,
        args=(Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages")),
    )
    return model.train(op, rows.batch(advantages=advantages), policy_loss)


def logprob(model: Model, rows: Rows) -> Tensor:
    return model.logprob(rows.tokens, rows.response_mask, temperature=1.0).values


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_first_it_is_the_base_model(rows: Rows, precision: str):
    model, base = adapted(precision=precision), load(precision=precision)
    assert torch.equal(logprob(model, rows), logprob(base, rows))
    plain = base.weights(dtype=torch.float32)
    found = model.weights()
    assert found.keys() == plain.keys()
    # The base of a bf16 model is held in bf16 only.
    assert all(torch.equal(w.to(base.dtype), plain[n].to(base.dtype)) for n, w in found.items())
    assert all(w.dtype == torch.float32 for w in found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_adapters_train(rows: Rows, precision: str):
    model = adapted(precision=precision)
    before = {n: p.clone() for n, p in model.scorer.named_parameters()}
    assert model.optimizer is not None
    assert {m.dtype for m in model.optimizer.masters.values()} == {torch.float32}
    made = trained(model, rows)
    assert made["grad_norm"] > 0
    for name, parameter in model.scorer.named_parameters():
        assert (name in model.optimizer.masters) == lora.is_adapter(name) == parameter.requires_grad
        assert torch.equal(before[name], parameter) != lora.is_adapter(name), name
        assert parameter.dtype == model.dtype


def gradients(model: Model, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Those of one step that is not taken."""
    seen: dict[str, Tensor] = {}

    def step(self: Optimizer, op: TrainOp, head: int | None = None) -> float:
        seen.update({n: m.grad for n, m in self.masters.items() if m.grad is not None})
        return 0.0

    with monkeypatch.context() as patched:
        patched.setattr(Optimizer, "step", step)
        trained(model, rows, steps=1)
    return seen


def test_gradients_are_those_of_the_merged_weights(rows: Rows, monkeypatch: pytest.MonkeyPatch):
    """Of W + s B A: dB = s dW A', dA = s B' dW."""
    model, merged = adapted(), load()
    trained(model, rows, steps=1)  # the second factor is no longer 0
    merged.scorer.model.load_state_dict(model.weights())
    factors = {n: p.detach() for n, p in model.scorer.named_parameters() if lora.is_adapter(n)}
    found, whole = (gradients(m, rows, monkeypatch) for m in (model, merged))
    assert found.keys() == factors.keys()
    for name, grad in found.items():
        layer, _, _ = name.partition(".lora_")
        d = 2.0 * whole[f"{layer}.weight"]
        a, b = (factors[f"{layer}.lora_{x}.default.weight"] for x in "AB")
        want = b.t() @ d if ".lora_A." in name else d @ a.t()
        assert torch.allclose(grad, want, atol=1e-6), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_merged_it_says_the_same(tmp_path: Path, rows: Rows, precision: str):
    model = adapted(precision=precision)
    trained(model, rows)
    live = logprob(model, rows)
    assert (live - logprob(load(precision=precision), rows)).abs().max() > 0.1
    model.save(tmp_path / "merged")
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    merged = load(source=str(tmp_path / "merged"), source_args={}, precision=precision)
    assert torch.allclose(logprob(merged, rows), live, atol=1e-5 if precision == "fp32" else 0.3)


def test_it_samples_with_its_adapters_at_once_or_as_last_synced(rows: Rows):
    model = adapted()
    live, stale = Sampler(model, seed=1), Sampler(model, seed=1, staleness=1)
    prompts, ids = ["1+2=", "7"], torch.arange(2)

    def text(sampler: Sampler) -> list[str]:
        return sampler.generate(prompts, ids, GENERATE, step=0).completions

    before = text(live)
    trained(model, rows, steps=5)
    assert text(live) != before
    assert text(stale) == before
    stale.sync(model)
    assert text(stale) == text(live)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("all-linear", LINEAR),
        ("", LINEAR),
        ("q_proj, v_proj", {"q_proj", "v_proj"}),
        ("self_attn.o_proj", {"o_proj"}),
    ],
)
def test_targets(targets: str, layers: set[str]):
    model = adapted(lora_targets=targets)
    assert model.optimizer is not None
    assert {n.split(".lora_")[0].split(".")[-1] for n in model.optimizer.masters} == layers
    assert all(min(m.shape) == 4 for m in model.optimizer.masters.values())


@pytest.mark.parametrize("targets", ["q_porj", "q_proj,q_porj", "lm_head", "all-linear,q_proj", ","])
def test_an_unknown_target(targets: str):
    with pytest.raises(DiagnosticError, match=r"RL0404.*`actor`.*no linear layer") as caught:
        adapted(lora_targets=targets)
    said = caught.value.diagnostics[0]
    assert "q_proj" in str(said.expected) and str(said.found).strip('"') in targets
    assert ("did you mean `q_proj`" in said.message) == ("porj" in targets)


@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 2.0), (2.0, 0.5)])
def test_alpha_scales_the_product(alpha: float, scale: float):
    model = adapted(lora_alpha=alpha)
    perturb(model)
    held = {n.removeprefix("model."): p.detach() for n, p in model.scorer.named_parameters()}
    layer = "model.layers.1.mlp.up_proj"
    a, b = (held[f"{layer}.lora_{x}.default.weight"] for x in "AB")
    want = held[f"{layer}.base_layer.weight"] + scale * b @ a
    assert torch.allclose(model.weights()[f"{layer}.weight"], want, atol=1e-6)


def test_adapters_follow_the_seed():
    first, again, other = (
        Model.load(
            ModelSpec(name="m", kind="policy", source="scratch", lora_rank=2, source_args={"seed": 1}), comm=c, seed=s
        )
        for c, s in ((load().comm, 0), (load().comm, 0), (load().comm, 2**70 + 1))
    )
    for name, p in first.scorer.named_parameters():
        assert torch.equal(p, dict(again.scorer.named_parameters())[name])
        assert torch.equal(p, dict(other.scorer.named_parameters())[name]) != (".lora_A." in name)


def test_peft_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(DiagnosticError, match=r"RL0601.*`peft`") as caught:
        adapted()
    assert caught.value.diagnostics[0].fix == "pip install 'rldsl[torch]'"


def test_a_frozen_model_has_no_adapters(rows: Rows):
    model = adapted(trainable=False)
    assert not any(lora.is_adapter(n) for n, _ in model.scorer.named_parameters())
    assert torch.equal(logprob(model, rows), logprob(load(), rows))


def test_a_critic_trains_its_head_as_well(rows: Rows):
    critic = adapted(CRITIC)
    assert not critic.value(rows.tokens, rows.response_mask).values.any()
    args = (Arg(param="values", field="values"), Arg(param="returns", field="returns"))
    op = train_op(model="critic", loss="value_loss", params={}, args=args, epochs=2, lr=1e-2)
    batch = rows.batch(values=rows.per_token(scale=0.0), returns=rows.per_token(seed=7))
    critic.train(op, batch, value_loss)
    assert critic.value(rows.tokens, rows.response_mask).values.any()
    base = weights(load(CRITIC))
    moved = {n for n, w in critic.weights().items() if not torch.equal(w, base[n])}
    assert "score.weight" in moved and "model.norm.weight" not in moved
    assert any(n.endswith("q_proj.weight") for n in moved)
