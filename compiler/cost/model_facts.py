"""What follows from a model's architecture alone: parameters by block, bytes of the KV cache, FLOPs of a forward pass.

FLOPs are two for each multiplication in a matrix product, as in the appendix of arXiv 2005.14165 and in PaLM's
(arXiv 2204.02311, appendix B); norms, activations, rotations and the softmax are left out, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Head(StrEnum):
    """What stands on the trunk: a language model's matrix to the vocabulary, or a layer of one number."""

    LM = "lm"
    VALUE = "value"
    SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """`copies` matrices of `inputs` x `outputs`, each with a bias of `outputs` numbers or none.

    `name` is that of the module in transformers. `active` of the copies see a token (fewer only for experts).
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    active: int = 1

    @property
    def parameters(self) -> int:
        """Of all copies, biases included."""
        return self.copies * self.outputs * (self.inputs + self.bias)

    @property
    def flops(self) -> int:
        """A token, forward."""
        return 2 * self.active * self.inputs * self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Numbers of parameters by what they belong to. `embedding` is also the output matrix where the two are tied."""

    embedding: int = 0
    attention: int = 0
    mlp: int = 0
    norm: int = 0
    router: int = 0
    experts: int = 0
    head: int = 0
    vision: int = 0

    @property
    def total(self) -> int:
        """All parameters."""
        return (
            self.embedding
            + self.attention
            + self.mlp
            + self.norm
            + self.router
            + self.experts
            + self.head
            + self.vision
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFacts:
    """The vision tower: transformer blocks over patches, then a merger into the language model's width.

    `merge` is how many patches along each side become one token.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch_inputs: int
    merge: int
    outputs: int
    gated: bool
    norm_bias: bool

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one block, all with a bias."""
        wide = ("gate_proj", "up_proj") if self.gated else ("fc1",)
        return (
            Linear(name="qkv", inputs=self.hidden, outputs=3 * self.hidden, bias=True),
            Linear(name="proj", inputs=self.hidden, outputs=self.hidden, bias=True),
            *(Linear(name=n, inputs=self.hidden, outputs=self.intermediate, bias=True) for n in wide),
            Linear(name="down_proj" if self.gated else "fc2", inputs=self.intermediate, outputs=self.hidden, bias=True),
        )

    @property
    def merger(self) -> tuple[Linear, ...]:
        """The matrices of the merger, which see `merge` x `merge` patches at once."""
        width = self.hidden * self.merge**2
        return (
            Linear(name="mlp.0", inputs=width, outputs=width, bias=True),
            Linear(name="mlp.2", inputs=width, outputs=self.outputs, bias=True),
        )

    @property
    def parameters(self) -> int:
        """Of the whole tower; the patches' projection has no bias, blocks have two norms and the merger one."""
        norm = self.hidden * (1 + self.norm_bias)
        block = sum(linear.parameters for linear in self.linears) + 2 * norm
        return self.patch_inputs * self.hidden + self.layers * block + sum(m.parameters for m in self.merger) + norm


@dataclass(frozen=True, slots=True, kw_only=True)
class SiglipFacts:
    """Gemma 3's vision tower: SigLIP over `positions` patches, then one matrix into the language model's width.

    `pooled`: with SigLIP's own head on top, which nothing uses; published configurations leave it out.
    """

    layers: int
    hidden: int
    intermediate: int
    patch_inputs: int
    positions: int
    outputs: int
    pooled: bool

    @property
    def parameters(self) -> int:
        """Of the tower and the projector, which alone has no bias, nor has its norm."""
        width, norm = self.hidden, 2 * self.hidden
        attention = 4 * width * (width + 1)
        mlp = self.intermediate * (width + 1) + width * (self.intermediate + 1)
        embeddings = width * (self.patch_inputs + 1) + self.positions * width
        head = width + attention + norm + mlp if self.pooled else 0
        projector = width + width * self.outputs
        return embeddings + self.layers * (attention + mlp + 2 * norm) + norm + head + projector


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A decoder's architecture. Widths are numbers of elements, not bytes.

    `intermediate` is the width of a dense MLP, `expert_intermediate` that of an expert and `shared_intermediate` that
    of the expert all tokens see (0: there is none). `moe_layers` of the `layers` have experts. `window` is how many
    tokens the `window_layers` look back at, None where all layers see everything. `max_positions` is how long a
    sequence may be, scaled rotations counted in. `qkv_bias`, `output_bias` and `mlp_bias` say which matrices have
    biases, `qk_norm` whether queries and keys are normed by head, `norms` how many norms a layer has besides.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    max_positions: int
    head: Head = Head.LM
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    window: int | None = None
    window_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    moe_layers: int = 0
    vision: VisionFacts | SiglipFacts | None = None

    @property
    def dense_layers(self) -> int:
        """Layers without experts."""
        return self.layers - self.moe_layers

    @cached_property
    def attention_linears(self) -> tuple[Linear, ...]:
        """The four matrices of a layer's attention."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            Linear(name="q_proj", inputs=self.hidden, outputs=queries, bias=self.qkv_bias),
            Linear(name="k_proj", inputs=self.hidden, outputs=keys, bias=self.qkv_bias),
            Linear(name="v_proj", inputs=self.hidden, outputs=keys, bias=self.qkv_bias),
            Linear(name="o_proj", inputs=queries, outputs=self.hidden, bias=self.output_bias),
        )

    @cached_property
    def mlp_linears(self) -> tuple[Linear, ...]:
        """The three matrices of a dense layer's gated MLP."""
        return self._gated(self.intermediate)

    @cached_property
    def expert_linears(self) -> tuple[Linear, ...]:
        """The matrices of a layer's experts and of the shared one, with its gate; none without experts."""
        if not self.moe_layers:
            return ()
        chosen = self._gated(self.expert_intermediate, self.experts, self.experts_per_token)
        if not self.shared_intermediate:
            return chosen
        gate = Linear(name="shared_expert_gate", inputs=self.hidden, outputs=1)
        return (*chosen, *self._gated(self.shared_intermediate), gate)

    @property
    def router(self) -> Linear:
        """What gives each expert of a layer a score."""
        return Linear(name="gate", inputs=self.hidden, outputs=self.experts)

    def _gated(self, width: int, copies: int = 1, active: int = 1) -> tuple[Linear, ...]:
        shapes = (("gate_proj", self.hidden, width), ("up_proj", self.hidden, width), ("down_proj", width, self.hidden))
        return tuple(
            Linear(name=name, inputs=i, outputs=o, bias=self.mlp_bias, copies=copies, active=active)
            for name, i, o in shapes
        )

    def layer(self, *, moe: bool = False) -> Blocks:
        """Parameters of one layer: a dense one, or one with experts."""
        norm = self.norms * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        attention = _parameters(self.attention_linears)
        if not moe:
            return Blocks(attention=attention, norm=norm, mlp=_parameters(self.mlp_linears))
        experts, router = _parameters(self.expert_linears), self.router.parameters
        return Blocks(attention=attention, norm=norm, experts=experts, router=router)

    @cached_property
    def blocks(self) -> Blocks:
        """Parameters of the whole model."""
        dense, moe = self.layer(), self.layer(moe=True)
        return Blocks(
            embedding=self.vocab * self.hidden,
            attention=self.layers * dense.attention,
            mlp=self.dense_layers * dense.mlp,
            norm=self.layers * dense.norm + self.hidden,
            router=self.moe_layers * moe.router,
            experts=self.moe_layers * moe.experts,
            head=self._head_parameters,
            vision=self.vision.parameters if self.vision else 0,
        )

    @property
    def _head_parameters(self) -> int:
        """A value head is a token classifier's, with a bias, a score head a sequence classifier's, without one."""
        if self.head is Head.LM:
            return 0 if self.tied else self.vocab * self.hidden
        return self.hidden + (self.head is Head.VALUE)

    @property
    def parameters(self) -> int:
        """Of the whole model, the vision tower included; a tied matrix counts once."""
        return self.blocks.total

    @property
    def active_parameters(self) -> int:
        """Those that work on one token of text: all but the experts that it is not sent to and the vision tower."""
        idle = sum((e.copies - e.active) * e.outputs * (e.inputs + e.bias) for e in self.expert_linears)
        blocks = self.blocks
        return blocks.total - blocks.vision - self.moe_layers * idle

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Keys and values of one token in all layers, as a cache without regard to windows keeps them."""
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes

    def kv_bytes(self, length: int, dtype_bytes: int = 2) -> int:
        """Keys and values of one sequence of `length` tokens, where layers with a window keep no more than it."""
        kept = length if self.window is None else min(length, self.window)
        tokens = (self.layers - self.window_layers) * length + self.window_layers * kept
        return 2 * tokens * self.kv_heads * self.head_dim * dtype_bytes

    @property
    def trunk_flops(self) -> int:
        """FLOPs a token, forward, in the matrices of all layers, without attention's own products."""
        attention = sum(linear.flops for linear in self.attention_linears)
        dense = sum(linear.flops for linear in self.mlp_linears)
        moe = sum(linear.flops for linear in self.expert_linears) + self.router.flops
        return self.layers * attention + self.dense_layers * dense + self.moe_layers * moe

    @property
    def head_flops(self) -> int:
        """FLOPs, forward, for each hidden state that goes through the head."""
        return 2 * self.hidden * (self.vocab if self.head is Head.LM else 1)

    def attention_flops(self, length: int, start: int = 0) -> int:
        """FLOPs, forward, of scores and weighted sums in all layers, for the tokens `start` to below `length`.

        Each token sees itself and those before it, as far back as the layer's window: four FLOPs a pair and element
        of a head, two for the score and two for the sum.
        """
        full = _pairs(length, None) - _pairs(start, None)
        windowed = _pairs(length, self.window) - _pairs(start, self.window)
        pairs = (self.layers - self.window_layers) * full + self.window_layers * windowed
        return 4 * self.heads * self.head_dim * pairs

    def forward_flops(self, length: int, *, heads: int | None = None) -> int:
        """FLOPs of one sequence of `length` tokens, of which `heads` (None: all) go through the head."""
        through = length if heads is None else heads
        return length * self.trunk_flops + through * self.head_flops + self.attention_flops(length)


def _parameters(linears: tuple[Linear, ...]) -> int:
    return sum(linear.parameters for linear in linears)


def _pairs(length: int, window: int | None) -> int:
    """How many pairs (token, token it sees) there are among the first `length` tokens."""
    near = length if window is None else min(length, window)
    return near * (near + 1) // 2 + (length - near) * near
