"""What the layers of a decoder keep for the backward pass, and what they need beside it while they run.

Counted from what autograd saves in transformers' modules with the engine's attention (`backends/engines/module.py`):
a linear layer keeps its input, a norm a float32 copy of its input and its normalised value, a gated MLP four tensors
of its width, attention queries, keys, values, its output and the softmax's normalisers, and no scores: both SDPA's
fused kernels and flash attention (arXiv 2205.14135) make those again. No constant here is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rldsl.compiler.cost.shard import Shard, numbers
from rldsl.compiler.ops import Recompute

FLOAT32, INT64 = 4, 8
# Tensors of float32 that the backward pass of a norm holds at once beside what it was given.
_NORM_TEMPORARIES = 5


class Logits(StrEnum):
    """Where and how logits are made: at all positions; where responses need them, at once or in pieces."""

    WHOLE = "whole"
    POSITIONS = "positions"
    CHUNKED = "chunked"


class Attention(StrEnum):
    """`masked` packs are of several rows, with a mask of each pack's square; `causal` ones are single rows, without."""

    MASKED = "masked"
    CAUSAL = "causal"


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """`packs` sequences of `length` places, padding included, with the cp ranks' parts together.

    `states` of the places come before a response token: there logits are needed. `cells` is the size of the table of
    rows and tokens that the loss works on; rows with a common prompt have more cells than places. `longest`: no
    pack with a mask is longer, where `length` is only a way to say how many places there can be; None: `length` itself.
    """

    packs: int
    length: int
    states: int
    cells: int
    longest: int | None = None

    @property
    def places(self) -> int:
        """All of them."""
        return self.packs * self.length

    @property
    def pairs(self) -> int:
        """Pairs of places of a pack: what a mask has an entry for."""
        return self.places * (self.longest or self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer on one rank over the places of a micro-batch; everything in bytes.

    `width` is the size of a number of the computation, 2 or 4. `trained`: the layer's matrices get gradients.
    `sequence` ranks of tp have a part each of the places between matrices (sequence parallelism, arXiv 2205.05198):
    of the residual stream and of its norms. Matrices gather it, and keep their own part alone.
    """

    shard: Shard
    micro: MicroBatch
    width: int
    attention: Attention
    moe: bool = False
    trained: bool = True
    sequence: int = 1

    @property
    def places(self) -> int:
        """On this rank."""
        return -(-self.micro.places // self.shard.axes.cp)

    @property
    def spread(self) -> int:
        """Those of them that it has between matrices."""
        return -(-self.places // self.sequence)

    @property
    def stream(self) -> int:
        """The residual stream once."""
        return self.width * self.spread * self.shard.hidden

    @property
    def gathered(self) -> int:
        """The same of all places, where a matrix needs it whole."""
        return self.width * self.places * self.shard.hidden if self.sequence > 1 else 0

    def _norm(self, numbers: int) -> int:
        """A norm of so many numbers: the float32 copy and the normalised value. Its result is another's."""
        return (FLOAT32 + self.width) * numbers

    @property
    def norms(self) -> int:
        """All norms, with those results that the matrices after them keep."""
        facts, shard = self.shard.facts, self.shard
        inside = self._norm(self.places * (shard.queries + shard.keys)) if facts.qk_norm else 0
        heads = self.places * (shard.heads + shard.kv_heads) if facts.qk_norm else 0
        rsqrt = FLOAT32 * (self.spread * facts.norms + heads)
        return facts.norms * self._norm(self.spread * shard.hidden) + inside + 2 * self.stream + rsqrt

    @property
    def _gathered_keys(self) -> int:
        """Keys and values that a rank's queries see: under cp those of all its ranks."""
        return 2 * self.width * self.places * self.shard.axes.cp * self.shard.keys

    @property
    def attended(self) -> int:
        """Queries, keys, values, output and normalisers; with a mask and shared keys the output twice."""
        shard = self.shard
        copies = 3 if self.attention is Attention.MASKED and shard.heads > shard.kv_heads else 2
        normalisers = FLOAT32 * self.places * shard.heads
        return copies * self.width * self.places * shard.queries + self._gathered_keys + normalisers

    @property
    def _slots(self) -> int:
        """Pairs of a place and an expert that it is sent to; ranks of tp with other experts share them out."""
        axes = self.shard.axes
        return -(-self.places * self.shard.facts.experts_per_token * axes.expert_tp // axes.tp)

    @property
    def mlp(self) -> int:
        """Gate, its activation, up projection and their product; for experts also their input, output and routing."""
        shard, width = self.shard, self.width
        if not self.moe:
            return 4 * width * self.places * shard.intermediate
        facts = shard.facts
        experts = (4 * shard.expert_intermediate + 2 * shard.hidden) * width * self._slots
        routing = (FLOAT32 + width) * self.spread * facts.experts + 5 * INT64 * self._slots
        return experts + routing + 4 * width * self.places * shard.shared_intermediate

    @property
    def saved(self) -> int:
        """For the backward pass, without recomputation."""
        return self.norms + self.attended + self.mlp + self._adapted

    @property
    def _adapted(self) -> int:
        """The product with the first factor of each adapter."""
        lora = self.shard.lora
        if lora is None:
            return 0
        matrices = 4 if self.moe else 7
        return self.width * self.places * lora.rank * matrices

    @property
    def products(self) -> int:
        """What selective recomputation keeps: the layer's input, results of matrices and of attention, all places'."""
        shard, width = self.shard, self.width
        attention = 2 * shard.queries + 2 * shard.keys + shard.hidden
        normalisers = FLOAT32 * self.places * shard.heads
        if not self.moe:
            mlp = (2 * shard.intermediate + shard.hidden) * width * self.places
        else:
            mlp = (2 * shard.expert_intermediate + shard.hidden) * width * self._slots
            mlp += width * self.spread * shard.facts.experts
        return self.stream + attention * width * self.places + normalisers + mlp

    @property
    def _kept_anyway(self) -> int:
        """What selective recomputation keeps and the layer, made again, does not make twice."""
        shard, width = self.shard, self.width
        mlp = 2 * shard.intermediate * self.places
        if self.moe:
            mlp = (2 * shard.expert_intermediate + shard.hidden) * self._slots
        return width * (self.places * (shard.keys + shard.queries) + mlp)

    def kept_parts(self, recompute: Recompute) -> dict[str, int]:
        """Held from the forward pass to the backward pass, by what it is of."""
        match recompute:
            case Recompute.NONE:
                parts = {"norms": self.norms, "attention": self.attended, "MLP": self.mlp}
                return {**parts, "adapters": self._adapted} if self._adapted else parts
            case Recompute.SELECTIVE:
                return {"results of matrices and attention": self.products}
            case Recompute.FULL:
                return {"inputs of layers": self.stream}

    def kept(self, recompute: Recompute) -> int:
        """Held from the forward pass to the backward pass."""
        return sum(self.kept_parts(recompute).values())

    def made_again(self, recompute: Recompute) -> int:
        """Comes back when the layer's own backward pass begins."""
        match recompute:
            case Recompute.NONE:
                return 0
            case Recompute.SELECTIVE:
                return self.saved - self._kept_anyway
            case Recompute.FULL:
                return self.saved

    @property
    def backward(self) -> int:
        """Beside `saved`, at the worst point of the backward pass: gradients of activations and of matrices.

        Early, in the MLP: the gradients of three tensors of its width, where one saved one is gone; of experts three
        of their input's size. Midway, in the norm after attention, all MLP gradients are there and its tensors gone.
        At the end all of the layer's gradients are there, but of what was saved only what the first norm needs. A
        matrix gathers its input once more, and makes that one's gradient whole before it is scattered.
        """
        shard, width = self.shard, self.width
        norm = _NORM_TEMPORARIES * FLOAT32 * self.spread * shard.hidden + 2 * self.stream
        if self.moe:
            early = 3 * width * self._slots * shard.hidden + self.stream
            middle = self._gradient(numbers(shard.expert_tensors)) - 2 * width * self._slots * shard.expert_intermediate
        else:
            inside = width * self.places * shard.intermediate
            early = max(2 * inside, inside + self.gathered, 2 * self.gathered - inside) + self.stream
            early += self._gradient(shard.mlp_parameters // 3)
            middle = self._gradient(shard.mlp_parameters) - self.mlp + norm
        all_of_it = numbers(shard.layer_tensors(moe=self.moe)) + (numbers(shard.expert_tensors) if self.moe else 0)
        first_matrix = 2 * self.gathered + width * self.places * (shard.queries + 2 * shard.keys)
        last = self._gradient(all_of_it) + max(norm, first_matrix) - self.attended - self.mlp
        return max(early, middle, last - self.norms // 2)

    def _gradient(self, parameters: int) -> int:
        return self.width * parameters if self.trained else 0

    @property
    def forward(self) -> int:
        """At the worst point of a forward pass without gradients: in the MLP, in attention, or in a norm."""
        shard, width, places = self.shard, self.width, self.places
        if self.moe:
            slots = self._slots
            # The input of the experts, their two products and what is made of these; then their output, thrice.
            inside = width * slots * (shard.hidden + 4 * shard.expert_intermediate)
            mlp = max(inside, 4 * width * slots * shard.hidden) + 5 * INT64 * slots
            mlp += 2 * FLOAT32 * self.spread * shard.facts.experts
        else:
            mlp = 3 * width * places * shard.intermediate
        copies = 4 if self.attention is Attention.MASKED else 3
        attention = copies * width * places * shard.queries + self._gathered_keys
        norm = 2 * FLOAT32 * self.spread * shard.hidden
        return 4 * self.stream + max(self.gathered + max(mlp, attention), norm)
