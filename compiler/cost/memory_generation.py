"""What generation takes of one rank's memory: our engine's waves, and pools that are sized by configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rldsl.compiler.cost.activations import FLOAT32, INT64, Attention, Layer, MicroBatch
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Term, nonzero, product

ENGINE_KV = 4 << 30
"""Bytes of keys and values that `backends/engines/generate.py` gives one wave."""

# Three sums in float64 of each block of 256 probabilities.
_BLOCK_SUMS = 3 * 8 / 256
_ONE_WEIGHT = (Category.COMMUNICATION, "one weight, whole")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """One wave of our engine: `samples` of `new_tokens` each to `prompts` prompts of `prompt` tokens.

    The weights are whole on each rank. `prefill` is the largest micro-batch of prompts. `states` gives the model and
    its precision; `shared`: the trainer's own weights are used, as on one rank.
    """

    states: States
    prompts: int
    prompt: int
    samples: int
    new_tokens: int
    prefill: MicroBatch
    top_p: bool = False
    shared: bool = False

    @property
    def _width(self) -> int:
        return self.states.width

    @property
    def rows(self) -> int:
        """Samples decoded together."""
        return self.prompts * self.samples

    @property
    def weights(self) -> Term:
        """A whole copy."""
        count = 0 if self.shared else self.states.shard.parameters
        return product(Category.WEIGHTS, "weights to generate with", (self._width, "B"), (count, "parameters"))

    def _kv(self, what: str, tokens: int) -> Term:
        each = self.states.shard.facts.kv_bytes_per_token(self._width) // self.states.shard.axes.tp
        return product(Category.KV_CACHE, what, (each, "B a token"), (tokens, "tokens"))

    @property
    def _prompts_kv(self) -> Term:
        return self._kv("prompts' keys and values", self.prompts * self.prompt)

    @property
    def _cache(self) -> Term:
        columns = self.prompt + self.new_tokens - 1
        return self._kv(f"keys and values of {self.rows:,} rows", self.rows * columns)

    @property
    def _columns(self) -> Term:
        """Tokens, log-probs and draws of the responses; padding and mask of whole rows."""
        response = INT64 + FLOAT32 + 8
        row = self.new_tokens * response + (self.prompt + self.new_tokens) * (1 + 2 * self._width)
        return product(Category.FIELDS, "responses and masks", (row, "B"), (self.rows, "rows"))

    @property
    def _drawing(self) -> Term:
        """Logits as they come, scaled, log-probs, probabilities.

        Then these in blocks, copied into float64 to be summed; before that `top_p` sorts and sums them.
        """
        blocks, ordered = FLOAT32 + 8 + _BLOCK_SUMS, 5 * FLOAT32 + INT64
        each = self._width + 3 * FLOAT32 + max(blocks, self.top_p * ordered)
        vocab = self.states.shard.vocab
        return product(Category.LOGITS, "drawing tokens", (each, "B"), (self.rows, "rows"), (vocab, "words"))

    @property
    def _prefilling(self) -> tuple[Term, ...]:
        shard, micro = self.states.shard, self.prefill
        layers = [
            Layer(shard=shard, micro=micro, width=self._width, attention=Attention.MASKED, moe=m).forward
            for m in shard.kinds
        ]
        group = shard.heads // shard.kv_heads
        mask = product(
            Category.ACTIVATIONS,
            "mask",
            (1 + self._width * group, "B"),
            (micro.pairs, "pairs of a pack"),
        )
        rotation = product(
            Category.ACTIVATIONS,
            "cosines and sines",
            (2 * self._width, "B"),
            (micro.places, "places"),
            (shard.facts.head_dim, "numbers"),
        )
        return product(Category.ACTIVATIONS, "one layer over the prompts", (max(layers), "B")), mask, rotation

    @property
    def _filling(self) -> Term:
        """One layer's keys of all prompts in a row, then spread over the samples."""
        shard = self.states.shard
        tokens = self.prompts * self.prompt * (1 + self.samples)
        return product(Category.KV_CACHE, "one layer, spread", (self._width * shard.keys, "B"), (tokens, "tokens"))

    @property
    def _last_hidden(self) -> Term:
        return product(
            Category.ACTIVATIONS,
            "prompts' hidden states",
            (2 * self._width * self.states.shard.hidden, "B"),
            (self.prompts * self.prompt, "tokens"),
        )

    @property
    def footprint(self) -> Footprint:
        """Awake: of one wave. Asleep, between rollouts, only the weights stay."""
        moments: dict[str, Iterable[Term]] = {
            "prefill": (self._prompts_kv, *self._prefilling, self._last_hidden, self._columns),
            "filling the cache": (self._prompts_kv, self._cache, self._filling, self._last_hidden, self._columns),
            "drawing": (self._cache, self._drawing, self._columns),
        }
        return Footprint.of(nonzero([self.weights]), moments)


def handing_over(states: States, *, cpu: bool = False) -> Footprint:
    """Trained weights to a sampler that has a copy of its own, which is written over one weight after the other.

    `cpu`: ranks are processors, and talk by gloo.
    """
    copy = product(
        Category.WEIGHTS, "weights to generate with", (states.width, "B"), (states.shard.parameters, "parameters")
    )
    passing = _one_by_one(states, states.width, cpu)
    return Footprint.of((*states.resident, copy), {"handing weights over": passing})


def saving(states: States, *, cpu: bool = False) -> Footprint:
    """Weights to a file, one after the other: in float32 where any of the model's is trained. `cpu` as above."""
    passing = _one_by_one(states, FLOAT32 if states.trained else states.width, cpu)
    return Footprint.of(states.resident, {"writing": passing})


def _one_by_one(states: States, width: int, cpu: bool) -> tuple[Term, ...]:
    """The most that weights take as they come whole, `width` bytes a number; adapters are merged in float32.

    They are put together from what tp, pp and ep have cut, and from FSDP's shards or, for float32, ZeRO-1's masters.
    gloo gathers into memory of its own, which is gone when the weight is cast or merged. The thread that has gathered
    one may let go of it when the next one has begun: gloo's were seen to.
    """
    axes = states.shard.axes
    shard = replace(states.shard, axes=replace(axes, tp=1, ep=1))
    masters = states.full and states.beside and width != states.width
    held = FLOAT32 if masters or (states.full and not states.beside) else states.width
    apart = (states.sharded and (masters or not states.whole)) or axes.tp * axes.pp * axes.ep > 1
    gathered = held * apart
    each = gathered + max(width if width != held else 0, gathered * cpu)
    tensors = [product(*_ONE_WEIGHT, (each, "B"), (shard.largest_tensor, "parameters"))]
    if states.trained and not states.full:
        matrix = max(t.numbers for moe in shard.kinds for t in shard.layer_tensors(moe=moe))
        tensors.append(product(*_ONE_WEIGHT, (gathered + 2 * FLOAT32, "B"), (matrix, "parameters")))
    late = (gathered, "B"), (shard.largest_layer_tensor, "parameters")
    return max(tensors, key=lambda t: t.bytes), product(Category.COMMUNICATION, "the one before", *late)
