"""Log-probs and values against a plain Hugging Face forward of each row."""

from __future__ import annotations

import pytest
import torch

from bench.memory_tracker import Alive
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


def test_pieces_in_bf16_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heads, "_SUMMED_AT_ONCE", 12)
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=g).bfloat16() for n in (64, 11))
    state, token = torch.arange(64), torch.randint(0, 11, (64,), generator=g)
    found, want = weight.clone().requires_grad_(), weight.double().requires_grad_()
    token_logprob(hidden, found, state, token, 1.0, at_once=22).sum().backward()
    (hidden.double() @ want.t()).log_softmax(-1)[state, token].sum().backward()
    assert found.grad is not None and want.grad is not None and found.grad.dtype == torch.bfloat16
    assert torch.allclose(found.grad.double(), want.grad, rtol=1e-2, atol=2e-2 * float(want.grad.abs().max()))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pieces_take_one_gradient_of_the_head_and_one_piece_of_logits(precision: torch.dtype):
    words, width, states = 1024, 256, 64
    hidden, weight = torch.zeros(states, width, dtype=precision), torch.zeros(words, width, dtype=precision)
    at = torch.arange(states)

    def peak(at_once: int) -> int:
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        alive = Alive()
        with alive:
            token_logprob(h, w, at, at, 1.0, at_once=at_once).sum().backward()
        return alive.peak

    piece = 4 * words
    gradient = weight.numel() * (4 if precision is torch.float32 else 4 + 2)
    there = weight.nbytes + 2 * hidden.nbytes
    assert peak(piece) <= 1.05 * (max(gradient, 4 * weight.numel() + 8 * piece) + there)


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
