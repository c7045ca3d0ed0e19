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
from rldsl.compiler.cost.memory_terms import Category, Footprint, Moment, Term, nonzero, product
from rldsl.compiler.cost.model_facts import Head
from rldsl.compiler.cost.shard import Shard
from rldsl.compiler.plan import Recompute

ENGINE_CHUNK = 1 << 25
"""Logits that `backends/engines/heads.py` makes at once."""

# float32 numbers a response position that a loss and its gradient have at once: about twenty in `policy_loss`.
_LOSS_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What training and scoring have in common: a model's states and one micro-batch.

    `chunk` is how many logits `Logits.CHUNKED` makes at once.
    """

    states: States
    micro: MicroBatch
    attention: Attention = Attention.MASKED
    logits: Logits = Logits.CHUNKED
    chunk: int = ENGINE_CHUNK

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

    def mask(self, *, copies: float = 0.0) -> Term:
        """What each place sees: one bool and, additive, once for each query head of a key head."""
        shape = (self.micro.packs * self.micro.length**2, "pairs of a pack")
        if self.attention is Attention.CAUSAL:
            return product(Category.ACTIVATIONS, "mask", (0, "B"), shape)
        each = 1 + self.width * (self.shard.heads // self.shard.kv_heads + copies)
        return product(Category.ACTIVATIONS, "mask", (each, "B"), shape)

    @property
    def fields(self) -> Term:
        """Tokens, positions, places and numbers of responses, and the loss's columns."""
        count = 2 * self._places + 5 * self._states_here
        rows = FLOAT32 * _LOSS_COLUMNS * self._places
        return product(Category.FIELDS, "the micro-batch and its loss", (INT64 * count + rows, "B"))

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
        """Logits in float32, and as much again inside `logsumexp`; from the second piece on, the piece before."""
        before = self._rounded if self._chunks > 1 else 0
        shape = ((self._chunk_states, "states"), (self._vocab, "words"))
        return product(Category.LOGITS, "logits", (2 * FLOAT32 + before, "B"), *shape)

    def logits_backward(self) -> tuple[Term, ...]:
        """Logits, their gradient, and the gradient of the head: summed in float32 if there are pieces."""
        shape = ((self._chunk_states, "states"), (self._vocab, "words"))
        if self.logits is Logits.WHOLE:
            return (product(Category.LOGITS, "log-softmax and two gradients", (3 * FLOAT32, "B"), *shape),)
        made = product(Category.LOGITS, "logits and their gradient", (FLOAT32 + self._rounded, "B"), *shape)
        if not self.states.full:
            return (made,)
        if self._chunks == 1:
            each = self.width
        else:
            each = 2 * self.width + (FLOAT32 if self._rounded or self._chunks > 2 else 0)
        head = product(
            Category.GRADIENTS, "gradient of the head", (each, "B"), (self.shard.head_parameters, "parameters")
        )
        return (made, head)

    @property
    def ends(self) -> Term:
        """The last norm, the states that logits are made of and their gradients."""
        hidden, last = self.shard.hidden, self.shard.last
        norm = (FLOAT32 + 2 * self.width) * self._places * hidden * last
        states = 2 * self.width * self._states_here * hidden * last
        return product(Category.ACTIVATIONS, "the last norm, and states", (norm + states, "B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Forward):
    """A train op: micro-batches summed up, then a step; `in_flight` of them at once under 1F1B (arXiv 2104.04473)."""

    recompute: Recompute = Recompute.NONE

    @property
    def in_flight(self) -> int:
        """Micro-batches of which this stage holds activations at once."""
        return self.shard.axes.pp - self.shard.stage

    def _kept(self, all_but: int = 0) -> Term:
        """Activations of all layers and micro-batches in flight, without those of `all_but` layers."""
        shard = self.shard
        total = sum(shard.count(m) * self.layer(m).kept(self.recompute) for m in shard.kinds) * self.in_flight
        received = 0 if shard.first else self._layers[0].stream * self.in_flight
        gone = all_but * max(layer.kept(self.recompute) for layer in self._layers)
        return product(
            Category.ACTIVATIONS,
            f"kept of {shard.layers} layers" + (f", {self.in_flight} micro-batches" if self.in_flight > 1 else ""),
            (max(0, total + received - gone), "B"),
        )

    @property
    def _always(self) -> tuple[Term, ...]:
        mask = self.mask()
        held = product(Category.ACTIVATIONS, mask.what, (mask.bytes * self.in_flight, "B"))
        return (*self.states.resident, *self.states.gradients, held, self.fields, self._rotation)

    @property
    def _rotation(self) -> Term:
        return product(
            Category.ACTIVATIONS,
            "cosines and sines",
            (2 * self.width, "B"),
            (self._places, "places"),
            (self.shard.facts.head_dim, "numbers"),
        )

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

    @property
    def _complete(self) -> Term:
        """Without FSDP: the gradient of one tensor, before it is added to its master's."""
        there = self.states.full and not self.states.fsdp
        return product(
            Category.GRADIENTS, "one tensor's gradient", (self.width, "B"), (there * self.shard.largest_tensor, "")
        )

    def _reduced(self, what: str, count: int) -> Term:
        there = count if self.states.full and self.states.fsdp else 0
        return product(Category.COMMUNICATION, what, (FLOAT32, "B"), (there, "parameters"))

    @property
    def _moments(self) -> tuple[Moment, ...]:
        largest = max(self.states.layer(m) for m in self.shard.kinds)
        whole = self.states.root
        gathering = (self.root_gathered, self.root_gathered, self.layer_gathered(2))
        backward = (self.root_gathered, self.layer_gathered(2), self._root_gradients, self._complete, self._backward)
        loss = (self.root_gathered, self.layer_gathered(1), *self.logits_backward(), self._complete)
        written = (self.root_gathered, self.layer_gathered(1), self.logits_forward())
        gradients = product(
            Category.GRADIENTS,
            "gradients of embedding and head",
            (self.width, "B"),
            (whole * (self.states.full and self.states.fsdp), "parameters"),
        )
        return (
            Moment(name="gathering the first layer", terms=gathering),
            Moment(name="the logits", terms=(self._kept(), self.ends, *written)),
            Moment(name="the gradient of the logits", terms=(self._kept(), self.ends, *loss)),
            Moment(name="the last layer's backward pass", terms=(self._kept(), self.ends, *backward)),
            Moment(
                name="a layer's backward pass",
                terms=(self._kept(1), *backward, self._reduced("a layer's gradients, to be reduced", largest)),
            ),
            Moment(
                name="reducing the gradients of embedding and head",
                terms=(gradients, self._complete, self._reduced("embedding and head, to be reduced", whole)),
            ),
        )

    @property
    def footprint(self) -> Footprint:
        """Of the op once the optimiser has its state; its first step needs no more."""
        moments = [Moment(name=m.name, terms=nonzero((*self._always, *m.terms))) for m in self._moments]
        step = Moment(name="the optimiser's step", terms=(*self.states.resident, *self.states.gradients))
        return Footprint(moments=(*moments, step), resident=self.states.resident)


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
        always = (*self.states.resident, self.mask(copies=1), self.fields)
        states = self.width * self.shard.hidden * (2 * self._places + self._states_here)
        hidden = product(Category.ACTIVATIONS, "hidden states", (states, "B"))
        root, layer = self.root_gathered, self.layer_gathered(2)
        moments = (
            Moment(name="gathering the first layer", terms=nonzero((*always, root, root, layer, hidden))),
            Moment(name="a layer's forward pass", terms=nonzero((*always, root, layer, self._running))),
            Moment(name="the logits", terms=nonzero((*always, root, layer, hidden, self.logits_forward()))),
        )
        return Footprint(moments=moments, resident=self.states.resident)
