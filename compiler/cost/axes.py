"""How the ranks of one group are divided."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Sizes of the mesh axes: data, tensor, pipeline, context and expert parallel.

    In the order of ranks tp is innermost, then cp, then dp, pp outermost. `ep` divides `tp * cp * dp`: it spreads the
    experts over ranks that these axes have made already, so it adds none. It takes ranks of dp and cp, where tp then
    splits an expert as any other matrix, as Megatron does unless told otherwise; what these are too few for it takes
    of tp, as vLLM and SGLang do, and an expert is split that much less.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def shards(self) -> int:
        """Ranks over which FSDP spreads a parameter that tp and pp have left on this rank."""
        return self.dp * self.cp

    @property
    def expert_copies(self) -> int:
        """Of these `shards` so many have the same experts, and share their parameters."""
        return self.shards // self.expert_sets

    @property
    def expert_sets(self) -> int:
        """Over how many sets of experts `shards` are spread."""
        return math.gcd(self.ep, self.shards)

    @property
    def expert_tp(self) -> int:
        """Ranks over which one expert is split."""
        return self.tp * self.expert_sets // self.ep
