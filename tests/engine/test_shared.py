"""One trunk, two heads, one optimiser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, OlmoConfig, OlmoForCausalLM

from rldsl.algos.losses import policy_loss, value_loss
from rldsl.backends.comm import Comm
from rldsl.backends.engines.model import Model
from rldsl.compiler.ops import Arg
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import (
    CRITIC,
    SCRATCH,
    Rows,
    changed,
    load,
    perturb,
    reference_rows,
    reference_value,
    train_op,
    weights,
)

HEAD = changed(CRITIC, copy_of=None, shares="actor")
POLICY_OP = train_op(lr=1e-2, args=(Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages")))
VALUE_OP = train_op(
    model="critic",
    loss="value_loss",
    params={},
    lr=1e-2,
    args=(Arg(param="values", field="values"), Arg(param="returns", field="returns")),
)


def pair(**changes: object) -> tuple[Model, Model]:
    head = changed(HEAD, trainable=changes.get("trainable", True))
    actor = Model.load(changed(SCRATCH, **changes), comm=Comm.alone(), seed=0, heads=[head])
    return actor, Model.load(head, comm=actor.comm, seed=0, trunk=actor)


def train_policy(actor: Model, rows: Rows) -> dict[str, float]:
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    return actor.train(POLICY_OP, rows.batch(advantages=advantages), policy_loss)


def train_value(critic: Model, rows: Rows) -> dict[str, float]:
    batch = rows.batch(values=rows.per_token(scale=0.0), returns=rows.per_token(seed=7))
    return critic.train(VALUE_OP, batch, value_loss)


def logprob(model: Model, rows: Rows) -> Tensor:
    return model.logprob(rows.tokens, rows.response_mask, temperature=1.0).values


def value(model: Model, rows: Rows) -> Tensor:
    return model.value(rows.tokens, rows.response_mask).values


def test_at_first_it_is_the_actor_and_a_new_critic(rows: Rows):
    actor, critic = pair()
    assert critic.scorer is actor.scorer and critic.optimizer is actor.optimizer
    assert torch.equal(logprob(actor, rows), logprob(load(), rows))
    assert not value(critic, rows).any()
    want = weights(load(CRITIC))
    found = critic.weights()
    assert found.keys() == want.keys() and actor.weights().keys() == load().weights().keys()
    assert all(torch.equal(w, want[n]) for n, w in found.items())


def test_values_are_those_of_a_critic_with_these_weights(rows: Rows):
    _, critic = pair()
    perturb(critic)
    twin = load(CRITIC)
    twin.scorer.model.load_state_dict(critic.weights())
    with torch.no_grad():
        want = reference_rows(rows, lambda t: reference_value(twin, t)).values
    assert want.abs().max() > 0.1
    assert torch.allclose(value(critic, rows), want, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_with_one_head_leaves_the_other(rows: Rows, precision: str):
    actor, critic = pair(precision=precision)
    # Both heads have momentum, which a step of the other must not let them follow.
    train_value(critic, rows)
    train_policy(actor, rows)
    for model, run, own, other in (
        (critic, train_value, ["score.weight", "score.bias"], ["lm_head.weight"]),
        (actor, train_policy, ["lm_head.weight"], ["score.weight", "score.bias"]),
    ):
        before = weights(actor) | weights(critic)
        assert run(model, rows)["grad_norm"] > 0
        after = weights(actor) | weights(critic)
        assert all(torch.equal(before[n], after[n]) for n in other)
        assert all(not torch.equal(before[n], after[n]) for n in after if n not in other), own


def test_the_trunk_has_one_adam(rows: Rows, monkeypatch: pytest.MonkeyPatch):
    """Steps of both heads by torch's AdamW on one plain copy of the weights."""
    actor, critic = pair()
    perturb(actor)
    policy, head = load(), load(CRITIC)
    policy.scorer.model.load_state_dict(actor.weights())
    head.scorer.model.load_state_dict(critic.weights())
    # The plain copies share their trunk; each step's gradient comes from an engine that is known to be right.
    head.scorer.model.model = policy.scorer.model.model
    adam = torch.optim.AdamW(
        {*policy.scorer.parameters(), *head.scorer.parameters()}, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0
    )
    for run, shared, plain in (
        (train_policy, actor, policy),
        (train_value, critic, head),
        (train_policy, actor, policy),
    ):
        norms: list[float] = []

        def step(op: object, own: int | None, plain: Model = plain, norms: list[float] = norms) -> float:
            norms.append(float(torch.nn.utils.clip_grad_norm_(plain.scorer.parameters(), 1.0)))
            adam.step()
            adam.zero_grad()
            return norms[-1]

        assert plain.optimizer is not None
        monkeypatch.setattr(plain.optimizer, "step", step)
        found, want = run(shared, rows), run(plain, rows)
        assert found["loss"] == pytest.approx(want["loss"], rel=1e-4)
        assert found["grad_norm"] == pytest.approx(norms[0], rel=1e-4)
    for mine, other in ((actor, policy), (critic, head)):
        state = dict(other.scorer.model.named_parameters())
        assert all(torch.allclose(w, state[n], atol=1e-4) for n, w in mine.weights().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_are_saved_as_models_of_their_own(tmp_path: Path, rows: Rows, precision: str):
    actor, critic = pair(precision=precision)
    perturb(actor)
    assert actor.optimizer is not None
    actor.optimizer.load_masters({n: p.detach().float() for n, p in actor.scorer.named_parameters()})
    actor.save(tmp_path / "actor")
    critic.save(tmp_path / "critic")
    AutoModelForCausalLM.from_pretrained(tmp_path / "actor")
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "critic").config.num_labels == 1
    again = load(source=str(tmp_path / "actor"), source_args={}, precision=precision)
    assert torch.equal(logprob(again, rows), logprob(actor, rows))
    again = load(CRITIC, source=str(tmp_path / "critic"), source_args={}, copy_of=None, precision=precision)
    assert value(critic, rows).abs().max() > 0
    assert torch.equal(value(again, rows), value(critic, rows))


def test_a_head_beside_adapters_trains_with_them(rows: Rows):
    actor, critic = pair(lora_rank=4)
    base = weights(actor) | weights(critic)
    train_value(critic, rows)
    assert value(critic, rows).any()
    train_value(critic, rows)  # at first a head of 0 gave the trunk no gradient
    after = weights(actor) | weights(critic)
    moved = {n for n in after if not torch.equal(after[n], base[n])}
    assert {"score.weight", "score.bias"} < moved and all("proj" in n or "score" in n for n in moved)


@pytest.mark.parametrize("trained", ["actor", "critic", "none"])
def test_the_trunk_trains_if_either_does(rows: Rows, trained: str):
    head = changed(HEAD, trainable=trained == "critic")
    spec = changed(SCRATCH, trainable=trained == "actor")
    actor = Model.load(spec, comm=Comm.alone(), seed=0, heads=[head])
    critic = Model.load(head, comm=actor.comm, seed=0, trunk=actor)
    assert (actor.optimizer is None) == (critic.optimizer is None) == (trained == "none")
    assert not value(critic, rows).any()


def test_a_trunk_that_could_not_be_saved_with_another_head(tmp_path: Path):
    load().save(tmp_path / "olmo")
    config = OlmoConfig(vocab_size=17, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    OlmoForCausalLM(config).save_pretrained(tmp_path / "olmo")
    source = changed(SCRATCH, source=str(tmp_path / "olmo"), source_args={})
    Model.load(source, comm=Comm.alone(), seed=0)
    with pytest.raises(DiagnosticError, match=r"RL0607.*`actor`.*no `olmo` model with a value head"):
        Model.load(source, comm=Comm.alone(), seed=0, heads=[HEAD])


def test_only_the_heads_that_were_told_of_are_there():
    actor = load()
    with pytest.raises(ValueError, match="not in tuple"):
        Model.load(ModelSpec(name="critic", kind="value", source="scratch"), comm=actor.comm, seed=0, trunk=actor)
