"""What of a model stays on a rank between ops: weights, gradients, the optimiser's state, under FSDP or without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from rldsl.compiler.cost.activations import FLOAT32
from rldsl.compiler.cost.memory_terms import Category, Term, nonzero, product
from rldsl.compiler.cost.shard import Shard, Tensor, numbers

# AdamW's two moments, in float32 as the masters are.
ADAM = 2 * FLOAT32


@dataclass(frozen=True, kw_only=True)
class States:
    """A model's weights on one rank: `width` bytes a number in the computation; `trained` those of the actor's kind.

    `zero` is the stage of ZeRO (arXiv 1910.02054): 3 as FSDP2 does it and as our engine has it; 2 gathers weights once
    for both passes (FSDP2 without resharding after forward); 1 keeps weights and float32 gradients whole, as a
    distributed optimiser does. Several ranks keep float32 masters in place of weights, one rank beside them.
    """

    shard: Shard
    width: int = 2
    trained: bool = True
    zero: int = 3

    @property
    def ranks(self) -> int:
        """Over how many the state is spread."""
        return self.shard.axes.shards

    @property
    def expert_ranks(self) -> int:
        """The same of experts: ep has spread them already."""
        return self.ranks // self.shard.axes.ep

    @property
    def sharded(self) -> bool:
        """Whether several ranks share the state."""
        return self.ranks > 1

    @property
    def fsdp(self) -> bool:
        """Whether weights are gathered and gradients reduced layer by layer."""
        return self.sharded and self.zero > 1

    @property
    def full(self) -> bool:
        """Whether all weights are trained, not adapters alone."""
        return self.trained and self.shard.lora is None

    def _over_all(self, counted: Callable[[bool], int]) -> int:
        return sum(self.shard.count(moe) * counted(moe) for moe in self.shard.kinds)

    @cached_property
    def base(self) -> int:
        """Numbers of the model's own weights on this rank before FSDP, padding included."""
        return self._over_all(self.layer) + self.root

    def layer(self, moe: bool) -> int:
        """Numbers in one layer."""
        return self._layers[moe]

    @cached_property
    def _layers(self) -> dict[bool, int]:
        shard = self.shard
        experts = numbers(shard.expert_tensors, self.expert_ranks)
        return {m: numbers(shard.layer_tensors(moe=m), self.ranks) + experts * m for m in shard.kinds}

    def adapters(self, moe: bool) -> int:
        """Numbers in one layer's adapters."""
        return numbers(self.shard.adapter_tensors(moe=moe), self.ranks)

    @cached_property
    def root(self) -> int:
        """Numbers in what belongs to no layer: FSDP's outermost group."""
        return numbers(self.shard.root_tensors, self.ranks) + self.shard.vision_parameters

    @cached_property
    def trainable(self) -> int:
        """Numbers that get gradients."""
        if not self.trained:
            return 0
        return self.base if self.full else self._over_all(self.adapters)

    @cached_property
    def _spread_experts(self) -> int:
        """Numbers by which the experts' share is greater, since fewer ranks divide it."""
        extra = self._over_all(lambda moe: numbers(self.shard.expert_tensors, self.expert_ranks) if moe else 0)
        return extra * (self.shard.axes.ep - 1)

    def _share(self, category: Category, what: str, width: int, count: int, whole: bool = False) -> Term:
        ranks = 1 if whole else self.ranks
        if self.full or count == self.base:
            count += self._spread_experts if ranks > 1 else 0
        return product(category, what, (width, "B"), (count, "parameters"), over=ranks)

    @cached_property
    def weights(self) -> tuple[Term, ...]:
        """Weights and masters."""
        whole = self.zero == 1
        if not self.full:
            adapters = self.trainable
            held = FLOAT32 if self.sharded else self.width
            found = [self._share(Category.WEIGHTS, "weights", self.width, self.base)]
            found.append(product(Category.WEIGHTS, "adapters", (held, "B"), (adapters, "numbers"), over=self.ranks))
            if self.width < FLOAT32 and not self.sharded:
                found.append(product(Category.WEIGHTS, "adapters' masters", (FLOAT32, "B"), (adapters, "numbers")))
            return nonzero(found)
        beside = self.width < FLOAT32 and (whole or not self.sharded)
        found = [self._share(Category.WEIGHTS, "float32 weights", FLOAT32, self.base)]
        if beside:
            found.insert(0, self._share(Category.WEIGHTS, "weights to compute with", self.width, self.base, whole=True))
        return tuple(found)

    @cached_property
    def optimizer(self) -> tuple[Term, ...]:
        """Adam's moments, and for bfloat16 on one rank the buffers that gradients are summed in."""
        found = [self._share(Category.OPTIMIZER, "Adam's moments", ADAM, self.trainable)]
        if self.trained and self._buffered:
            found.append(self._share(Category.GRADIENTS, "buffers of the masters' gradients", FLOAT32, self.trainable))
        return nonzero(found)

    @property
    def _buffered(self) -> bool:
        return not self.sharded and self.width < FLOAT32

    @property
    def resident(self) -> tuple[Term, ...]:
        """Held between ops."""
        return (*self.weights, *self.optimizer)

    @cached_property
    def gradients(self) -> tuple[Term, ...]:
        """Held while micro-batches are summed up, in float32."""
        if self._buffered:
            return ()
        whole = self.zero == 1
        return nonzero([self._share(Category.GRADIENTS, "gradients", FLOAT32, self.trainable, whole=whole)])


def largest(tensors: tuple[Tensor, ...]) -> int:
    """Numbers in the largest of them."""
    return max((t.numbers for t in tensors), default=0)
