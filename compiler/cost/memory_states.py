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
    for both passes (FSDP2 without resharding after forward); 1 keeps weights and float32 gradients whole, as Megatron's
    distributed optimiser does, and shares what an optimiser has alone: what is not trained is whole on each rank.
    Several ranks keep float32 masters in place of weights under FSDP; one rank, and ZeRO-1, beside them.
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
    def sharded(self) -> bool:
        """Whether several ranks share the state."""
        return self.ranks > 1

    @property
    def fsdp(self) -> bool:
        """Whether weights are gathered and gradients reduced layer by layer."""
        return self.sharded and self.zero > 1

    @property
    def whole(self) -> bool:
        """Whether weights and gradients are whole on each of several ranks."""
        return self.sharded and self.zero == 1

    @property
    def full(self) -> bool:
        """Whether all weights are trained, not adapters alone."""
        return self.trained and self.shard.lora is None

    def _over_all(self, counted: Callable[[bool], int]) -> int:
        return sum(self.shard.count(moe) * counted(moe) for moe in self.shard.kinds)

    @cached_property
    def base(self) -> int:
        """Numbers of the model's own weights that tp, pp and ep leave on this rank, with what FSDP pads them by."""
        return self._over_all(self.layer) + self.root

    def layer(self, moe: bool) -> int:
        """Numbers in one layer."""
        return self._layers[moe]

    @cached_property
    def _layers(self) -> dict[bool, int]:
        experts = self._padded(self.shard.expert_tensors, self.shard.axes.expert_copies)
        return {m: self._padded(self.shard.layer_tensors(moe=m), self.ranks) + experts * m for m in self.shard.kinds}

    def _padded(self, tensors: tuple[Tensor, ...], ranks: int) -> int:
        """FSDP cuts the rows of each tensor; ZeRO-1 cuts one flat buffer, whose own padding is some hundred numbers."""
        return numbers(tensors, ranks if self.fsdp else 1)

    def adapters(self, moe: bool) -> int:
        """Numbers in one layer's adapters."""
        return self._padded(self.shard.adapter_tensors(moe=moe), self.ranks)

    @cached_property
    def root(self) -> int:
        """Numbers in what belongs to no layer: FSDP's outermost group."""
        return self._padded(self.shard.root_tensors, self.ranks) + self.shard.vision_parameters

    @cached_property
    def trainable(self) -> int:
        """Numbers that get gradients."""
        if not self.trained:
            return 0
        return self.base if self.full else self._over_all(self.adapters)

    @cached_property
    def _spread_experts(self) -> int:
        """Numbers by which the experts' share is greater, since fewer ranks divide it."""
        axes = self.shard.axes
        here = self._padded(self.shard.expert_tensors, axes.expert_copies) * self.shard.moe_layers
        return here * (axes.expert_sets - 1)

    def _of_base(self, category: Category, what: str, width: int, *, whole: bool = False) -> Term:
        """So many bytes of each of the model's own weights."""
        count = self.base if whole else self.base + self._spread_experts
        return product(category, what, (width, "B"), (count, "parameters"), over=1 if whole else self.ranks)

    def _of_trained(self, category: Category, what: str, width: int, *, whole: bool = False) -> Term:
        """The same of what gets gradients."""
        if self.full:
            return self._of_base(category, what, width, whole=whole)
        factors = (width, "B"), (self.trainable, "parameters")
        return product(category, what, *factors, over=1 if whole else self.ranks)

    @property
    def beside(self) -> bool:
        """Whether float32 masters are there beside weights to compute with."""
        return self.width < FLOAT32 and (self.whole or not self.sharded)

    @cached_property
    def weights(self) -> tuple[Term, ...]:
        """Weights and masters."""
        computed = self.width if self.beside else FLOAT32
        masters = FLOAT32 if self.beside else 0
        if self.full:
            what = "weights to compute with" if self.beside else "float32 weights"
            held = [self._of_base(Category.WEIGHTS, what, computed, whole=self.whole)]
            held.append(self._of_base(Category.WEIGHTS, "float32 weights", masters))
        else:
            held = [self._of_base(Category.WEIGHTS, "weights", self.width, whole=self.whole)]
            held.append(self._of_trained(Category.WEIGHTS, "adapters", computed, whole=self.whole))
            held.append(self._of_trained(Category.WEIGHTS, "adapters' masters", masters))
        return nonzero(held)

    @cached_property
    def optimizer(self) -> tuple[Term, ...]:
        """Adam's moments, and for bfloat16 on one rank the buffers that gradients are summed in."""
        found = [self._of_trained(Category.OPTIMIZER, "Adam's moments", ADAM)]
        if self.trained and self._buffered:
            found.append(self._of_trained(Category.GRADIENTS, "buffers of the masters' gradients", FLOAT32))
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
        return nonzero([self._of_trained(Category.GRADIENTS, "gradients", FLOAT32, whole=self.whole)])
