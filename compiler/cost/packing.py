"""How large the engine's micro-batches can become, from lengths alone."""

from __future__ import annotations

from rldsl.compiler.cost.activations import MicroBatch

PACK_PLACES = 512
"""Places of a pack, but for a longer row; `backends/engines/packing.py` has the same number."""

CUDA_PLACES, CPU_PLACES = 16384, 2048
"""Of a training micro-batch that names none, as in `backends/engines/score.py`; scoring and prefill take four times as
many."""


def largest_micro_batch(*, places: int, prompt: int, response: int, rows: int) -> MicroBatch:
    """The most that `rows` sequences of up to `prompt` and `response` tokens can make of `places` places.

    The last token of a row is no input. What rows have in common is computed once, so that a pack of samples of one
    prompt has room for many; every place behind the first prompt of a pack can then need logits. The loss's table is
    that of rows of the full length: of shorter ones more fit into the places. Packs above `PACK_PLACES` are
    single rows, and have no mask.
    """
    row = prompt + response - 1
    limit = min(PACK_PLACES, places)
    if row >= limit:
        # Shorter rows fill the places better, so there can be as many as are asked for.
        packs = max(1, min(places // row, rows))
        length = max(row, min(places, rows * row) // packs)
    else:
        length = min(limit, row * rows)
        packs = min(-(-places // length), -(-rows // (length // row)))
    # Each sample has all its tokens but the last to itself.
    samples = max(packs, packs * length // (response - 1)) if response > 1 else rows
    return MicroBatch(
        packs=packs,
        length=length,
        states=packs * length - min(packs, rows) * (prompt - 1),
        cells=min(rows, samples) * (row + 1),
        longest=min(limit, length),
    )
