"""What the time model takes the packing engine to compute, beside what it does."""

from __future__ import annotations

import pytest
import torch

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.packing import MicroBatch, micro_batches
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.packing import PACK_PLACES
from rldsl.compiler.cost.time_model import Rows, packed_work

FACTS = shipped_models()["Qwen2.5-7B"]


def packed(rows: Rows, budget: int) -> list[MicroBatch]:
    """The engine's micro-batches; each row has a token more, as the last one is no input."""
    generator = torch.Generator().manual_seed(0)
    tokens = []
    for _ in range(rows.prompts):
        prompt = torch.randint(4, 30_000, (rows.prompt_tokens,), generator=generator)
        for _ in range(rows.samples):
            response = torch.randint(4, 30_000, (rows.response_tokens + 1,), generator=generator)
            tokens.append(torch.cat((prompt, response)))
    mask = torch.arange(rows.length + 1) >= rows.prompt_tokens
    given = Ragged.of(tokens), Ragged.of([mask] * len(tokens))
    return micro_batches(*given, torch.arange(len(tokens)), budget=budget)


def pairs(micro: MicroBatch) -> int:
    """Of places, for which attention is computed: all of a pack under a mask, else those that are seen."""
    packs, width = micro.layout.tokens.shape
    each = width * (width + 1) // 2 if micro.layout.visible is None else width * width
    return packs * each


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 1000, 500), (4, 2, 300, 100), (5, 1, 200, 100), (4, 4, 40, 32), (2, 8, 64, 48)],
    ids=["long rows", "alone", "alone and short", "trees side by side", "one tree a pack"],
)
def test_places_and_pairs_of_places(shape: tuple[int, int, int, int]) -> None:
    prompts, samples, prompt, response = shape
    rows = Rows(prompts=prompts, samples=samples, prompt_tokens=prompt, response_tokens=response)
    made, work = packed(rows, 1 << 16), packed_work(FACTS, rows, 1)
    assert sum(micro.layout.tokens.numel() for micro in made) == work.tokens
    assert sum(map(pairs, made)) * 4 * FACTS.layers * FACTS.heads * FACTS.head_dim == work.attention


@pytest.mark.parametrize("budget", [4000, 1500, 1499, 300, 3001])
@pytest.mark.parametrize("shape", [(3, 3, 1000, 500), (6, 8, 64, 48), (5, 1, 200, 100)])
def test_no_micro_batch_cuts_a_row(shape: tuple[int, int, int, int], budget: int) -> None:
    prompts, samples, prompt, response = shape
    rows = Rows(prompts=prompts, samples=samples, prompt_tokens=prompt, response_tokens=response)
    work = packed_work(FACTS, rows, 1, pack=min(PACK_PLACES, budget))
    assert work.micro_batches(budget) == len(packed(rows, budget))
