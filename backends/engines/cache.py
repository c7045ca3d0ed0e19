"""Keys and values of a generation: filled once a prompt, spread over its samples, then one column a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class PromptCache(Cache):
    """Collects each layer's keys and values of a prefill, [B, T, Hkv, D]."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.found: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep and pass on [B, Hkv, T, D]."""
        assert layer_idx == len(self.found), "layers come in order"
        self.found.append((key_states, value_states))
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing came before."""
        return 0


class DecodeCache(Cache):
    """Preallocated keys and values, rows aligned on the right: every row writes the same column at the same step."""

    def __init__(self, columns: int) -> None:
        super().__init__(layers=[])
        self.columns, self.length, self.rows = columns, 0, 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def fill(self, prompts: Sequence[PromptCache], places: Tensor) -> None:
        """Take the prompts' keys and values: `places` i64[rows, width] index the flattened prefills in order."""
        self.rows, self.length = places.shape
        for layer in range(len(prompts[0].found)):
            for which, held in ((0, self._keys), (1, self._values)):
                flat = torch.cat([p.found[layer][which].transpose(1, 2).flatten(0, 1) for p in prompts])
                heads, dim = flat.shape[1:]
                made = flat.new_empty(self.rows, heads, self.columns, dim)
                made[:, :, : self.length] = flat[places].transpose(1, 2)
                held.append(made)

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows` i64[n], increasing; the storage stays."""
        for held in (self._keys, self._values):
            for each in held:
                each[: len(rows), :, : self.length] = each[rows, :, : self.length]
        self.rows = len(rows)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the column of this step, [rows, Hkv, 1, D], and return all columns so far."""
        end = self.length + 1
        keys, values = self._keys[layer_idx][: self.rows], self._values[layer_idx][: self.rows]
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def advance(self) -> None:
        """The step is over: the next one writes the next column."""
        self.length += 1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns filled."""
        return self.length
