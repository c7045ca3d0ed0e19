"""Prefix trees: nothing lost, nothing seen that should not be, nothing computed twice."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.backends.engines.packing import PACK_TOKENS, Layout, group, micro_batches, pack
from tests.engine.tiny import Rows

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, limit=st.integers(4, 40), budget=st.integers(4, 80))
def test_each_node_sees_exactly_its_prefix(rows: list[list[int]], limit: int, budget: int):
    arrays = [np.array(r, np.int64) for r in rows]
    packs = pack(arrays, limit)
    seen_rows = []
    for batch in group(packs, budget):
        layout = Layout.of(batch, torch.device("cpu"))
        assert len(batch) == 1 or layout.tokens.numel() <= budget
        places = layout.tokens.shape[1]
        visible = np.tri(places, dtype=bool)[None].repeat(len(batch), 0)
        if layout.visible is not None:
            assert not np.array_equal(layout.visible.numpy(), visible), "a mask that says no more than the order does"
            visible = layout.visible.numpy()
        for i, each in enumerate(batch):
            assert each.size <= limit or len(each.rows) == 1
            for row, path in zip(each.rows, each.paths, strict=True):
                seen_rows.append(row)
                assert layout.tokens[i, path].tolist() == rows[row]
                assert layout.positions[i, path].tolist() == list(range(len(path)))
                for depth, node in enumerate(path):
                    assert visible[i, node].nonzero()[0].tolist() == sorted(path[: depth + 1])
    assert sorted(seen_rows) == list(range(len(rows)))


def test_a_common_prefix_is_held_once():
    rows = [np.array([1, 2, 3, *tail], np.int64) for tail in ([4], [5], [4, 6], [4])]
    (only,) = pack(rows, 100)
    assert only.size == 3 + 2 + 1


def test_long_rows_lie_beside_long_rows_only():
    rows = [np.full(n, i, np.int64) for i, n in enumerate((PACK_TOKENS + 9, PACK_TOKENS + 1, 400, 300))]
    batches = group(pack(rows, PACK_TOKENS), 1 << 20)
    assert [[p.size for p in batch] for batch in batches] == [[PACK_TOKENS + 9, PACK_TOKENS + 1], [400, 300]]
    assert Layout.of(batches[0], torch.device("cpu")).visible is None


def test_micro_batches_know_every_response_token(rows: Rows):
    """Dense and back: give each pair the number of its token, and read the tokens."""
    index = torch.arange(len(rows))
    for budget in (4, 20, 1000):
        met = []
        for micro in micro_batches(rows.tokens, rows.response_mask, index, budget=budget):
            padded = rows.tokens.select(micro.rows).padded()
            mask = rows.response_mask.select(micro.rows).padded()
            assert torch.equal(micro.mask, mask)
            assert torch.equal(micro.dense(micro.pair_token.float()).long(), padded * mask)
            met += micro.rows.tolist()
        assert sorted(met) == index.tolist()
