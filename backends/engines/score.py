"""Log-probs, values and scores without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.packing import MicroBatch, idle, micro_batches

if TYPE_CHECKING:
    from rldsl.backends.comm import Comm


@dataclass(frozen=True, slots=True)
class Ask:
    """What `head` says of the tokens at which `mask` bool[sample, token] is set is wanted."""

    head: Head
    mask: Ragged


def budget(device: torch.device, micro_batch_tokens: int) -> int:
    """Tokens of a micro-batch: as asked, or 2,048 on a CPU (its caches are small) and 16,384 on a GPU."""
    return micro_batch_tokens or (16384 if device.type == "cuda" else 2048)


def fill(micros: list[MicroBatch], comm: Comm, device: torch.device) -> list[MicroBatch | None]:
    """As many on every rank, None where this one has no more: each forward of a sharded model is a collective."""
    most = int(comm.all_reduce_max(torch.tensor([len(micros)]))[0]) if comm.world_size > 1 else len(micros)
    return [*micros, *[None] * (most - len(micros))]


def per_token(
    scorer: Scorer, comm: Comm, tokens: Ragged, asks: Sequence[Ask], *, micro_batch_tokens: int = 0
) -> list[Ragged]:
    """For each ask f32[sample, token], 0 where its mask is not set; one forward of the layers for all of them."""
    scorer.check_length(longest(tokens))
    masks = [a.mask.to(comm.device).values for a in asks]
    mask = Ragged(torch.stack(masks).any(0), tokens.lengths)
    found = _run(scorer, comm, tokens, mask, [a.head for a in asks], micro_batch_tokens)
    if all(a.mask is asks[0].mask for a in asks):
        return found
    return [Ragged(each.values.masked_fill(~mask, 0.0), each.lengths) for each, mask in zip(found, masks, strict=True)]


def per_row(scorer: Scorer, comm: Comm, tokens: Ragged, *, micro_batch_tokens: int = 0) -> Tensor:
    """f32[sample]: the number that the scorer's head gives the last token of each row."""
    scorer.check_length(longest(tokens))
    # What is said of a token comes from the state before it, so one more token, never looked at, asks for the last.
    ends = tokens.lengths.cumsum(0) + torch.arange(len(tokens), device=tokens.lengths.device)
    last = torch.zeros(len(tokens.values) + len(tokens), dtype=torch.bool, device=tokens.values.device)
    last[ends] = True
    longer = tokens.values.new_zeros(len(last))
    longer[~last] = tokens.values
    lengths = tokens.lengths + 1
    (found,) = _run(scorer, comm, Ragged(longer, lengths), Ragged(last, lengths), [Head()], micro_batch_tokens)
    return found.values[last.to(comm.device)]


def longest(tokens: Ragged) -> int:
    """Tokens of the longest row, 0 without rows."""
    return int(tokens.lengths.max()) if len(tokens) else 0


@torch.no_grad()
def _run(
    scorer: Scorer, comm: Comm, tokens: Ragged, mask: Ragged, heads: Sequence[Head], micro_batch_tokens: int
) -> list[Ragged]:
    device = comm.device
    tokens, mask = tokens.to(device), mask.to(device)
    # Without a backward pass nothing is kept: four times the tokens cost the memory of one training micro-batch.
    most = micro_batch_tokens or 4 * budget(device, 0)
    micros = micro_batches(tokens, mask, torch.arange(len(tokens)), budget=most)
    out = [torch.zeros(len(tokens), longest(tokens), device=device) for _ in heads]
    for micro in fill(micros, comm, device):
        found = scorer(micro or idle(device), heads)
        if micro is not None:
            for whole, part in zip(out, found, strict=True):
                whole[micro.rows, : micro.mask.shape[1]] = micro.dense(part)
    if isinstance(scorer, FSDPModule):
        # The root keeps its weights whole until a backward pass. An optimiser step may come first, when all rows of
        # a minibatch are skipped, and the next forward would see the weights of before it.
        scorer.reshard()
    return [Ragged.from_padded(whole, tokens.lengths) for whole in out]
