"""What an op takes of one rank's memory: training, scoring, generating, handing weights over.

Each op is a few points in time, `Moment`s, and each moment a sum of terms that say what they are of and how they came
about; the op needs the greatest. The points are those at which the engine's own code peaks (`backends/engines`):
FSDP2's gathered copies and reduce-scatter buffers by layer, activations, logits in pieces. docs/memory.md has the
derivation, `bench/memory.py` the comparison with the modules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from rldsl.compiler.cost.activations import FLOAT32, INT64, Attention, Layer, Logits, MicroBatch
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Term, product
from rldsl.compiler.cost.model_facts import Head
from rldsl.compiler.cost.shard import Shard
from rldsl.compiler.ops import Recompute

ENGINE_CHUNK = 1 << 25
"""Logits that `backends/engines/heads.py` makes at once."""
SUMMED_AT_ONCE = 1 << 23
"""Numbers of the head's gradient that it adds at once to a sum of another type."""

# float32 numbers a response position that a loss and its gradient have at once: about twenty in `policy_loss`.
_LOSS_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What training and scoring have in common: a model's states and one micro-batch.

    `chunk` is how many logits `Logits.CHUNKED` makes at once. `cpu`: ranks are processors, and talk by gloo.
    """

    states: States
    micro: MicroBatch
    attention: Attention = Attention.MASKED
    logits: Logits = Logits.CHUNKED
    chunk: int = ENGINE_CHUNK
    cpu: bool = False

    @property
    def shard(self) -> Shard:
        """The rank's part of the model."""
        return self.states.shard

    @property
    def width(self) -> int:
        """Bytes of a number of the computation."""
        return self.states.width

    def layer(self, moe: bool) -> Layer:
        """One of its layers."""
        # Without FSDP a gradient is added to its master's as soon as it is complete.
        trained = self.states.full and self.states.fsdp
        return Layer(
            shard=self.shard,
            micro=self.micro,
            width=self.width,
            attention=self.attention,
            moe=moe,
            trained=trained,
            sequence=self.shard.axes.tp,
        )

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return tuple(self.layer(moe) for moe in self.shard.kinds)

    @property
    def _states_here(self) -> int:
        """Places of this rank whose logits are needed."""
        places = self.micro.places if self.logits is Logits.WHOLE else self.micro.states
        return -(-places // self.shard.axes.cp)

    @property
    def _places(self) -> int:
        return -(-self.micro.places // self.shard.axes.cp)

    # What FSDP gathers, in the computation's precision: a flat buffer, and the parameters copied out of it.

    def _gathered(self, what: str, count: int) -> Term:
        there = count if self.states.fsdp else 0
        return product(Category.COMMUNICATION, what, (self.width, "B"), (there, "parameters"))

    @property
    def _largest_layer(self) -> int:
        return max(self.states.layer(m) + self.states.adapters(m) for m in self.shard.kinds)

    @property
    def root_gathered(self) -> Term:
        """Embedding and head stay whole from the forward pass to the end of the backward pass."""
        return self._gathered("embedding and head, gathered", self.states.root)

    def layer_gathered(self, copies: int) -> Term:
        """The largest layer: its flat buffer, its parameters, or those and the next one's buffer."""
        if self.states.zero == 2:
            return self._gathered("all layers, gathered", self.states.base - self.states.root)
        return self._gathered(f"a gathered layer, {copies} times", copies * self._largest_layer)

    # The mask and the fields of a micro-batch.

    def mask(self) -> Term:
        """What each place sees: one bool and, additive, once for each query head of a key head."""
        shape = (self.micro.pairs, "pairs of a pack")
        if self.attention is Attention.CAUSAL:
            return product(Category.ACTIVATIONS, "mask", (0, "B"), shape)
        each = 1 + self.width * (self.shard.heads // self.shard.kv_heads)
        return product(Category.ACTIVATIONS, "mask", (each, "B"), shape)

    @property
    def fields(self) -> Term:
        """Tokens, positions, places and numbers of responses, and the loss's columns."""
        count = 2 * self._places + 5 * self._states_here
        loss = FLOAT32 * _LOSS_COLUMNS * -(-self.micro.cells // self.shard.axes.cp)
        return product(Category.FIELDS, "the micro-batch and its loss", (INT64 * count + loss, "B"))

    @property
    def rotation(self) -> Term:
        """What turns queries and keys."""
        return product(
            Category.ACTIVATIONS,
            "cosines and sines",
            (2 * self.width, "B"),
            (self._places, "places"),
            (self.shard.facts.head_dim, "numbers"),
        )

    # Logits.

    @property
    def _vocab(self) -> int:
        return self.shard.vocab if self.shard.last and self.shard.facts.head is Head.LM else 0

    @property
    def _chunk_states(self) -> int:
        """States whose logits are made at once."""
        if self.logits is not Logits.CHUNKED or not self._vocab:
            return self._states_here
        return min(self._states_here, max(1, self.chunk // self._vocab))

    @property
    def _chunks(self) -> int:
        return -(-self._states_here // max(1, self._chunk_states))

    @property
    def _rounded(self) -> int:
        """Bytes of a logit before it is float32, where it is not from the start."""
        return self.width if self.width < FLOAT32 else 0

    def logits_forward(self) -> Term:
        """Logits in float32, and as much again inside `logsumexp`."""
        shape = ((self._chunk_states, "states"), (self._vocab, "words"))
        return product(Category.LOGITS, "logits", (2 * FLOAT32, "B"), *shape)

    def logits_backward(self) -> tuple[Term, ...]:
        """Logits, their gradient, and the gradient of the head: summed in float32 if there are pieces."""
        shape = ((self._chunk_states, "states"), (self._vocab, "words"))
        if self.logits is Logits.WHOLE:
            return (product(Category.LOGITS, "log-softmax and two gradients", (3 * FLOAT32, "B"), *shape),)
        pair = FLOAT32 + self._rounded
        if self._chunks == 1:
            return self._one_piece(pair, self.width)
        # A processor casts what is added to a sum of another type, whole; a GPU does it number by number.
        each = self.width + FLOAT32 * self.cpu
        there = min(SUMMED_AT_ONCE, self.shard.head_parameters) if self.states.full and self._rounded else 0
        added = product(Category.GRADIENTS, "what is added to it at once", (each, "B"), (there, "parameters"))
        summing = (*self._one_piece(pair, FLOAT32), added)
        # At the end the sum is rounded.
        return max(summing, self._one_piece(0, FLOAT32 + self._rounded), key=lambda terms: sum(t.bytes for t in terms))

    def _one_piece(self, a_logit: int, a_parameter: int) -> tuple[Term, ...]:
        shape = ((self._chunk_states, "states"), (self._vocab, "words"))
        head = self.shard.head_parameters if self.states.full else 0
        return (
            product(Category.LOGITS, "logits and their gradient", (a_logit, "B"), *shape),
            product(Category.GRADIENTS, "gradient of the head", (a_parameter, "B"), (head, "parameters")),
        )

    @property
    def ends(self) -> Term:
        """The last norm, its result whole, the states that logits are made of and their gradients."""
        hidden, layer = self.shard.hidden, self._layers[0]
        norm = (FLOAT32 + 2 * self.width) * layer.spread * hidden + layer.gathered
        states = 2 * self.width * self._states_here * hidden
        return product(Category.ACTIVATIONS, "the last norm, and states", ((norm + states) * self.shard.last, "B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Forward):
    """A train op: micro-batches summed up, then a step; `in_flight` of them at once under 1F1B (arXiv 2104.04473)."""

    recompute: Recompute = Recompute.NONE

    @property
    def in_flight(self) -> int:
        """Micro-batches of which this stage holds activations at once."""
        return self.shard.axes.pp - self.shard.stage

    def _kept(self, all_but: int = 0) -> tuple[Term, ...]:
        """Activations of all layers and micro-batches in flight, without those of `all_but` layers."""
        made = []
        for layer in self._layers:
            count = self.shard.count(layer.moe) * self.in_flight - all_but * (layer == self._largest_kept)
            kind = "layers with experts" if layer.moe else "layers"
            kind += f" of {self.in_flight} micro-batches" if self.in_flight > 1 else ""
            for what, each in layer.kept_parts(self.recompute).items():
                made.append(product(Category.ACTIVATIONS, f"kept: {what}", (count, kind), (each, "B")))
        if not self.shard.first:
            received = (self.in_flight, "micro-batches"), (self._layers[0].stream, "B")
            made.append(product(Category.ACTIVATIONS, "received hidden states", *received))
        return tuple(made)

    @property
    def _largest_kept(self) -> Layer:
        return max(self._layers, key=lambda layer: layer.kept(self.recompute))

    @property
    def _always(self) -> tuple[Term, ...]:
        mask = self.mask()
        held = product(Category.ACTIVATIONS, mask.what, (mask.bytes * self.in_flight, "B"))
        return (*self.states.gradients, held, self.fields, self.rotation)

    @property
    def _largest_whole_layer(self) -> int:
        return max(self.states.layer(m) for m in self.shard.kinds)

    @property
    def _backward(self) -> Term:
        """What the largest layer's own backward pass adds."""
        again = max(layer.made_again(self.recompute) + layer.backward for layer in self._layers)
        return product(Category.ACTIVATIONS, "one layer's backward pass", (again, "B"))

    @property
    def _root_gradients(self) -> Term:
        """Held until the root's are reduced: of the head from the start, of the embedding at the end."""
        full = self.states.full and (self.states.fsdp or self.shard.facts.tied)
        return product(
            Category.GRADIENTS,
            "gradient of the head",
            (self.width, "B"),
            (self.shard.head_parameters * full, "parameters"),
        )

    def _complete(self, count: int) -> Term:
        """Without FSDP: one tensor's gradient, added to its master's; a processor casts it first, whole."""
        there = count if self.states.full and not self.states.fsdp else 0
        each = self.width + FLOAT32 * (self.cpu and self._rounded > 0)
        return product(Category.GRADIENTS, "one tensor's gradient", (each, "B"), (there, "numbers"))

    @property
    def _tied_gradients(self) -> Term:
        """Of a matrix that is embedding and head: from either, and their sum."""
        tied = self.states.full and self.shard.facts.tied and self.shard.first
        return product(
            Category.GRADIENTS,
            "gradients of the embedding as such and as the head",
            (3 * self.width, "B"),
            (tied * self.shard.head_parameters, "parameters"),
        )

    def _reduced(self, what: str, count: int) -> Term:
        there = count if self.states.full and self.states.fsdp else 0
        return product(Category.COMMUNICATION, what, (FLOAT32, "B"), (there, "parameters"))

    @property
    def _moments(self) -> dict[str, tuple[Term, ...]]:
        complete = self._complete(self.shard.largest_layer_tensor)
        root, first, last, kept = self.states.root, self._kept(1), (*self._kept(), self.ends), self.layer_gathered(1)
        backward = (self.root_gathered, self.layer_gathered(2), self._root_gradients, complete, self._backward)
        reduced = self._reduced("a layer's gradients, to be reduced", self._largest_whole_layer)
        everything = self._complete(self.shard.largest_tensor)
        gradients = product(
            Category.GRADIENTS,
            "gradients of embedding and head",
            (self.width, "B"),
            (root * (self.states.full and self.states.fsdp), "parameters"),
        )
        return {
            "gathering the first layer": (self.root_gathered, self.root_gathered, self.layer_gathered(2)),
            "the logits": (*last, self.root_gathered, kept, self.logits_forward()),
            "the gradient of the logits": (*last, self.root_gathered, kept, *self.logits_backward()),
            "the last layer's backward pass": (*last, *backward),
            "a layer's backward pass": (*first, *backward, reduced),
            "the embedding's gradient": (self.root_gathered, self._tied_gradients, reduced),
            "reducing the gradients of embedding and head": (
                gradients,
                everything,
                self._reduced("embedding and head, to be reduced", root),
                self._reduced("gloo's copy of these", root * self.cpu),
            ),
        }

    @property
    def footprint(self) -> Footprint:
        """Of the op once the optimiser has its state; its first step needs no more."""
        moments: dict[str, tuple[Term, ...]] = {name: (*self._always, *m) for name, m in self._moments.items()}
        return Footprint.of(self.states.resident, {**moments, "the optimiser's step": self.states.gradients})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(Forward):
    """An infer op: the same forward pass without gradients, of four training micro-batches' tokens."""

    @property
    def _running(self) -> Term:
        return product(
            Category.ACTIVATIONS, "one layer's forward pass", (max(layer.forward for layer in self._layers), "B")
        )

    @property
    def footprint(self) -> Footprint:
        """The states that the model has anyway are counted in."""
        always = (self.mask(), self.fields, self.rotation)
        layer = self._layers[0]
        states = self.width * self.shard.hidden * self._states_here + 2 * layer.stream + layer.gathered
        hidden = product(Category.ACTIVATIONS, "hidden states", (states, "B"))
        root, copies = self.root_gathered, self.layer_gathered(2)
        moments = {
            "gathering the first layer": (*always, root, root, copies, hidden),
            "a layer's forward pass": (*always, root, copies, self._running),
            "the logits": (*always, root, copies, hidden, self.logits_forward()),
        }
        return Footprint.of(self.states.resident, moments)
