"""Log-probs and values against a plain Hugging Face forward of each row."""

from __future__ import annotations

import pytest
import torch

from rldsl.backends.engines import heads
from rldsl.backends.engines.heads import token_logprob
from tests.engine.tiny import CRITIC, Rows, load, perturb, quiet, reference_logp, reference_rows, reference_value


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprob_equals_the_plain_forward(rows: Rows, temperature: float):
    model = perturb(load())
    found = model.logprob(rows.tokens, rows.response_mask, temperature=temperature)
    with torch.no_grad():
        want = reference_rows(rows, lambda t: reference_logp(model, t, temperature))
    assert torch.equal(found.lengths, rows.tokens.lengths)
    assert torch.allclose(found.values, want.values, atol=1e-5)
    assert not found.values[~rows.response_mask.values].any()


def test_value_equals_the_plain_forward_and_starts_at_zero(rows: Rows):
    critic = load(CRITIC)
    assert not critic.value(rows.tokens, rows.response_mask).values.any()
    perturb(critic)
    found = critic.value(rows.tokens, rows.response_mask)
    with torch.no_grad():
        want = reference_rows(rows, lambda t: reference_value(critic, t))
    assert found.values.abs().max() > 0.1
    assert torch.allclose(found.values, want.values, atol=1e-5)


def test_a_critic_and_a_reference_start_from_the_weights_they_copy():
    actor, critic = load(), load(CRITIC)
    reference = load(CRITIC, kind="policy", trainable=False)
    body = actor.scorer.model.base_model.state_dict()
    for copy in (critic, reference):
        for name, weight in copy.scorer.model.base_model.state_dict().items():
            assert torch.equal(weight, body[name]), name
    assert reference.optimizer is None


@pytest.mark.parametrize("kept", [1 << 25, 40])
def test_the_chunked_projection_has_the_gradient_of_the_plain_one(kept: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heads, "KEPT_LOGITS", kept)
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 4, generator=g), torch.randn(11, 4, generator=g)
    state, token = torch.tensor([0, 0, 1, 2, 3, 5, 6, 6]), torch.tensor([1, 4, 2, 2, 0, 9, 10, 3])
    upstream = torch.randn(8, generator=g)
    results = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        plain = (h @ w.t() / 0.8).log_softmax(-1)[state, token]
        out = token_logprob(h, w, state, token, 0.8) if chunked else plain
        (out * upstream).sum().backward()
        results.append((out.detach(), h.grad, w.grad))
    for found, want in zip(*results, strict=True):
        assert torch.allclose(found, want, atol=1e-6)


def test_bf16_is_near_fp32(rows: Rows):
    exact, rough = perturb(load()), load(precision="bf16")
    state = exact.scorer.state_dict()
    rough.scorer.load_state_dict(state)
    a = exact.logprob(rows.tokens, rows.response_mask, temperature=1.0).values
    b = rough.logprob(rows.tokens, rows.response_mask, temperature=1.0).values
    assert (a - b).abs().max() < 0.2
    assert rough.weights()["lm_head.weight"].dtype == torch.float32


@pytest.mark.parametrize("silent", [[1], [0, 3, 4], list(range(12))], ids=["one", "some", "all"])
def test_rows_without_a_response_are_zero_and_change_no_other(rows: Rows, silent: list[int]):
    mask = quiet(rows, silent)
    for model, score in ((load(), "logprob"), (load(CRITIC), "value")):
        perturb(model)
        more = {"temperature": 1.0} if score == "logprob" else {}
        whole = getattr(model, score)(rows.tokens, rows.response_mask, **more)
        found = getattr(model, score)(rows.tokens, mask, **more)
        assert torch.allclose(found.values, whole.values * mask.values, atol=1e-6)
