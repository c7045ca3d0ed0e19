"""Log-probs and values without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import FSDPModule

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.packing import MicroBatch, idle, micro_batches

if TYPE_CHECKING:
    from rldsl.backends.comm import Comm


def budget(device: torch.device, micro_batch_tokens: int) -> int:
    """Tokens of a micro-batch: as asked, or 2,048 on a CPU (its caches are small) and 16,384 on a GPU."""
    return micro_batch_tokens or (16384 if device.type == "cuda" else 2048)


def fill(micros: list[MicroBatch], comm: Comm, device: torch.device) -> list[MicroBatch | None]:
    """As many on every rank, None where this one has no more: each forward of a sharded model is a collective."""
    most = int(comm.all_reduce_max(torch.tensor([len(micros)]))[0]) if comm.world_size > 1 else len(micros)
    return [*micros, *[None] * (most - len(micros))]


@torch.no_grad()
def score(scorer: Scorer, comm: Comm, tokens: Ragged, response_mask: Ragged, *, temperature: float) -> Ragged:
    """f32[sample, token], 0 outside the response: what the scorer says of each response token."""
    device = comm.device
    tokens, response_mask = tokens.to(device), response_mask.to(device)
    longest = int(tokens.lengths.max()) if len(tokens) else 0
    scorer.check_length(longest)
    # Without a backward pass nothing is kept: four times the tokens cost the memory of one training micro-batch.
    micros = micro_batches(tokens, response_mask, torch.arange(len(tokens)), budget=4 * budget(device, 0))
    out = torch.zeros(len(tokens), longest, device=device)
    for micro in fill(micros, comm, device):
        found = scorer(micro or idle(device), temperature)
        if micro is not None:
            out[micro.rows, : micro.mask.shape[1]] = micro.dense(found)
    if isinstance(scorer, FSDPModule):
        # The root keeps its weights whole until a backward pass. An optimiser step may come first, when all rows of
        # a minibatch are skipped, and the next forward would see the weights of before it.
        scorer.reshard()
    return Ragged.from_padded(out, tokens.lengths)
