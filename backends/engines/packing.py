"""Rows packed into micro-batches as prefix trees: what rows have in common is computed once.

The samples of a prompt share it, and all prompts of a chat model share its system text. Sorted, rows with a common
prefix are neighbours; each adds only the tokens in which it differs from the one before, and sees, through the
attention mask, only its own prefix. Hidden states, and so log-probs and gradients, are those of separate rows. Long
rows are packs of their own, without a mask: that would take the square of their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldsl.backends.data.batch import Ragged

Ints = NDArray[np.int64]

# Attention within a pack costs the square of its length; 512 keeps that well below the matrix products.
PACK_TOKENS = 512


@dataclass(slots=True)
class Pack:
    """One prefix tree, its nodes in the order in which sorted rows add them: ancestors come first."""

    size: int = 0
    runs: list[tuple[Ints, int, int]] = field(default_factory=list)  # new tokens, their parent node, its depth
    rows: list[int] = field(default_factory=list)
    paths: list[Ints] = field(default_factory=list)  # the nodes of each row, root first

    def shared(self, row: Ints, previous: Ints) -> int:
        """How many leading tokens of `row` are here already, given the row added last."""
        if not self.rows:
            return 0
        length = min(len(row), len(previous))
        differ = row[:length] != previous[:length]
        return int(differ.argmax()) if differ.any() else length

    def add(self, index: int, row: Ints, shared: int) -> None:
        """Add row number `index`, of which `shared` tokens are here."""
        known = self.paths[-1][:shared] if shared else np.empty(0, np.int64)
        new = row[shared:]
        if len(new):
            self.runs.append((new, int(known[-1]) if shared else -1, shared))
        self.rows.append(index)
        self.paths.append(np.concatenate((known, np.arange(self.size, self.size + len(new)))))
        self.size += len(new)

    @property
    def one_path(self) -> bool:
        """Whether each node sees all before it: of one row, or of rows of which each begins the next."""
        start = 0
        for new, parent, _ in self.runs:
            if parent != start - 1:
                return False
            start += len(new)
        return True

    def write(self, tokens: Ints, positions: Ints) -> None:
        """Fill the first `size` places of one batch row, [T] each."""
        start = 0
        for new, _, depth in self.runs:
            end = start + len(new)
            tokens[start:end] = new
            positions[start:end] = np.arange(depth, depth + len(new))
            start = end

    def mark(self, visible: NDArray[np.bool_]) -> None:
        """Set what each node sees in one batch row, [T, T]; padding sees itself: a softmax over nothing is NaN."""
        start = 0
        for new, parent, _ in self.runs:
            end = start + len(new)
            if parent >= 0:
                visible[start:end, :start] = visible[parent, :start]
            visible[start:end, start:end] = np.tri(len(new), dtype=bool)
            start = end
        pad = np.arange(self.size, len(visible))
        visible[pad, pad] = True


def pack(rows: Sequence[Ints], limit: int) -> list[Pack]:
    """Prefix trees over `rows`, largest first, none above `limit` nodes unless a single row is."""
    # Big-endian bytes sort as the token ids do.
    order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">u4").tobytes())
    packs: list[Pack] = []
    previous = np.empty(0, np.int64)
    for index in order:
        row = rows[index]
        shared = packs[-1].shared(row, previous) if packs else 0
        if not packs or packs[-1].size + len(row) - shared > limit:
            packs.append(Pack())
            shared = 0
        packs[-1].add(index, row, shared)
        previous = row
    return sorted(packs, key=lambda p: -p.size)


def group(packs: Sequence[Pack], budget: int) -> list[list[Pack]]:
    """Batches of packs, largest first, each of at most `budget` places with padding, or of one pack.

    Packs above `PACK_TOKENS` are single rows and need no mask: no other is put beside them, which would.
    """
    batches: list[list[Pack]] = []
    for each in packs:
        largest = batches[-1][0].size if batches else 0
        alike = (largest > PACK_TOKENS) == (each.size > PACK_TOKENS)
        if batches and alike and (len(batches[-1]) + 1) * largest <= budget:
            batches[-1].append(each)
        else:
            batches.append([each])
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A batch of packs as a model takes it: `tokens` and `positions` i64[B, T], `visible` bool[B, T, T].

    Without `visible` each place sees all before it in its pack.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor | None = None

    @classmethod
    def of(cls, packs: Sequence[Pack], device: torch.device) -> Layout:
        """Lay packs out as batch rows, padded on the right."""
        shape = (len(packs), packs[0].size)
        tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, each in enumerate(packs):
            each.write(tokens[i], positions[i])
        return cls(
            tokens=torch.from_numpy(tokens).to(device),
            positions=torch.from_numpy(positions).to(device),
            visible=_visible(packs, device),
        )


def _visible(packs: Sequence[Pack], device: torch.device) -> Tensor | None:
    """None where the order of places says it: padding on the right is seen by no other."""
    if all(each.one_path for each in packs):
        return None
    size = packs[0].size
    made = np.zeros((len(packs), size, size), bool)
    for i, each in enumerate(packs):
        each.mark(made[i])
    return torch.from_numpy(made).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows for one forward pass, and where in it the quantities of their response tokens are.

    A state is a hidden state that predicts some response token; a pair is a state with the token that follows.
    `states` i64[S] are places in the flattened layout; `pair_state` i64[M] indexes `states`, `pair_token` i64[M] are
    token ids; `response` i64[R] gives the pair of each response token of `rows`, row after row. `mask` is the rows'
    response mask, bool[rows, longest].
    """

    rows: Tensor
    layout: Layout
    states: Tensor
    pair_state: Tensor
    pair_token: Tensor
    response: Tensor
    mask: Tensor

    def dense(self, per_pair: Tensor) -> Tensor:
        """[M] to [rows, longest], each response token's number at its place, 0 elsewhere. Differentiable."""
        blank = per_pair.new_zeros(self.mask.shape)
        return blank.masked_scatter(self.mask, per_pair[self.response])


def _gather(packs: Sequence[Pack], rows: list[Ints], masks: list[NDArray[np.bool_]]) -> tuple[Ints, Ints, Ints]:
    """The flat state and the token of every response token, and the row numbers, in pack order."""
    width = packs[0].size
    states, tokens, order = [], [], []
    for i, each in enumerate(packs):
        for row, path in zip(each.rows, each.paths, strict=True):
            at = masks[row].nonzero()[0]
            assert at[0] > 0, "a response token needs a prompt token before it"
            states.append(path[at - 1] + i * width)
            tokens.append(rows[row][at])
            order.append(row)
    return np.concatenate(states), np.concatenate(tokens), np.array(order, np.int64)


def micro_batches(tokens: Ragged, response_mask: Ragged, rows: Tensor, *, budget: int) -> list[MicroBatch]:
    """The `rows` i64[n] of a batch in micro-batches of at most `budget` distinct tokens, or of one longer row.

    Rows without any response token are in none: there is nothing to say of them, and no gradient from them.
    """
    device = tokens.values.device
    masks = [m.cpu().numpy() for m in response_mask.select(rows).rows()]
    responding = [i for i, m in enumerate(masks) if m.any()]
    rows, masks = rows[responding], [masks[i] for i in responding]
    pieces = [r.cpu().numpy() for r in tokens.select(rows).rows()]
    # The state after the last token predicts nothing.
    packs = pack([p[:-1] for p in pieces], min(PACK_TOKENS, budget))
    return [_micro_batch(g, pieces, masks, rows, device) for g in group(packs, budget)]


def _micro_batch(
    packs: list[Pack], pieces: list[Ints], masks: list[NDArray[np.bool_]], rows: Tensor, device: torch.device
) -> MicroBatch:
    states, tokens, order = _gather(packs, pieces, masks)
    used, state_of = np.unique(states, return_inverse=True)
    key, response = np.unique(state_of * (1 << 32) + tokens, return_inverse=True)
    width = max(len(masks[r]) for r in order)
    mask = np.zeros((len(order), width), bool)
    for i, row in enumerate(order):
        mask[i, : len(masks[row])] = masks[row]

    def put(array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return MicroBatch(
        rows=rows[torch.from_numpy(order)],
        layout=Layout.of(packs, device),
        states=put(used),
        pair_state=put(key >> 32),
        pair_token=put(key & 0xFFFFFFFF),
        response=put(response),
        mask=put(mask),
    )


def idle(device: torch.device) -> MicroBatch:
    """A micro-batch of one token pair and no rows, for ranks that must take part in a collective without work."""
    nothing = Ragged(torch.zeros(2, dtype=torch.int64, device=device), torch.tensor([2], device=device))
    mask = Ragged(torch.tensor([False, True], device=device), nothing.lengths)
    return micro_batches(nothing, mask, torch.tensor([0]), budget=2)[0]
