"""Rows longer than a pack: no mask, the numbers of separate rows in float64, memory in proportion to the length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.memory_tracker import Alive
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import module
from rldsl.backends.engines.model import _scorer
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.packing import PACK_TOKENS, MicroBatch, micro_batches
from rldsl.compiler.plan import ModelSpec

POLICY = ModelSpec(name="actor", kind="policy", source="", trainable=True)
VOCABULARY = 23


def policy(*, kv_heads: int = 2, precision: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Two layers, four query heads, weights large enough for attention to matter."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1 << 14,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    return LlamaForCausalLM(config).to(precision)


def batch(lengths: list[int]) -> tuple[Ragged, Ragged]:
    """Rows of these lengths, the last one twice but for one token; responses are the second halves."""
    g = torch.Generator().manual_seed(7)
    rows = [torch.randint(0, VOCABULARY, (n,), generator=g) for n in lengths]
    twin = rows[-1].clone()
    twin[len(twin) * 3 // 4] = (twin[len(twin) * 3 // 4] + 1) % VOCABULARY
    rows.append(twin)
    return Ragged.of(rows), Ragged.of([torch.arange(len(r)) >= len(r) // 2 for r in rows])


def exact(tokens: Ragged, kv_heads: int) -> tuple[LlamaForCausalLM, list[Tensor]]:
    """The model in float64, and the log-probs of each row by transformers' plain attention."""
    model = policy(kv_heads=kv_heads).double()
    model.config._attn_implementation = "eager"
    found = []
    for row in tokens.rows():
        logp = model(input_ids=row[None]).logits[0, :-1].log_softmax(-1)
        found.append(logp.gather(-1, row[1:, None])[:, 0])
    return model, found


def said(scorer: Scorer, micro: MicroBatch) -> Tensor:
    """f32[rows, longest]: log-probs of responses."""
    return micro.dense(scorer(micro, [Head()])[0])


@pytest.mark.parametrize("kernel_shares_keys", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_log_probs_and_gradients_are_those_of_separate_rows_in_float64(
    kv_heads: int, kernel_shares_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_kernel_shares_keys", lambda _: kernel_shares_keys)
    tokens, mask = batch([PACK_TOKENS + 200, PACK_TOKENS + 20, 40])
    scorer = _scorer(policy(kv_heads=kv_heads), POLICY, (), seed=0)
    model, want = exact(tokens, kv_heads)
    micros = micro_batches(tokens, mask, torch.arange(len(tokens)), budget=2048)
    assert [m.layout.visible is None for m in micros] == [True, False], "long rows, and a tree of two short ones"
    for micro in micros:
        made = said(scorer, micro)
        for row, index in zip(made, micro.rows.tolist(), strict=True):
            here = mask.rows()[index]
            assert torch.allclose(row[: len(here)][here].double(), want[index][here[1:]], atol=2e-5), index
        made.sum().backward()
    torch.cat([w[m[1:]] for w, m in zip(want, mask.rows(), strict=True)]).sum().backward()
    for (name, found), (_, reference) in zip(scorer.model.named_parameters(), model.named_parameters(), strict=True):
        assert found.grad is not None and reference.grad is not None
        near = torch.allclose(
            found.grad.double(), reference.grad, rtol=1e-4, atol=1e-4 * float(reference.grad.abs().max())
        )
        assert near, name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_without_a_mask_is_as_with_one(precision: torch.dtype) -> None:
    tokens, mask = batch([PACK_TOKENS + 200])
    scorer = _scorer(policy(precision=precision), POLICY, (), seed=0)
    (micro,) = micro_batches(tokens, mask, torch.arange(2), budget=2048)
    visible = torch.ones(*micro.layout.tokens.shape, micro.layout.tokens.shape[1], dtype=torch.bool).tril()
    found = []
    with torch.no_grad():
        for seen in (None, visible):
            masked = type(micro.layout)(tokens=micro.layout.tokens, positions=micro.layout.positions, visible=seen)
            found.append(scorer.hidden(masked).float())
    size = float(found[1].abs().max())
    assert (found[0] - found[1]).abs().max() <= size * (1e-5 if precision is torch.float32 else 2e-2)


def test_memory_grows_with_the_length_and_not_its_square() -> None:
    scorer = _scorer(policy(), POLICY, (), seed=0)

    def peak(length: int) -> int:
        g = torch.Generator().manual_seed(0)
        row = torch.randint(0, VOCABULARY, (length,), generator=g)
        tokens, mask = Ragged.of([row]), Ragged.of([torch.arange(length) >= length - 64])
        alive = Alive()
        with alive:
            (micro,) = micro_batches(tokens, mask, torch.arange(1), budget=256)
            said(scorer, micro).sum().backward()
        scorer.zero_grad()
        return alive.peak

    assert peak(4096) < 2.1 * peak(2048)
