"""How the ranks of one group are divided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Sizes of the mesh axes: data, tensor, pipeline, context and expert parallel.

    In the order of ranks tp is innermost, then cp, then dp, pp outermost. `ep` divides `dp * cp`: it spreads the
    experts over ranks that these axes have made already, so it adds none, and tp splits an expert as any other matrix.
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
