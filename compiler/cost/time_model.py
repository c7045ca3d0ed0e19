"""Seconds of each op: a roofline over FLOPs, bytes of memory and bytes on links, with stated efficiencies.

Everything is for one rank of a group that shares its work evenly; communication that a good engine overlaps counts
only as far as it takes longer than what it hides behind. Left out: stragglers, rows of uneven length, the loading of
data, a user's functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ops import Tier

BYTES = {"bf16": 2, "fp32": 4}
"""Of a number in each precision."""

STEP_BYTES = 40
"""Memory traffic a parameter of AdamW in float32: weight, gradient and two moments read and all but the gradient
written (28); the gradient read for its norm (4), then read and written to be clipped (8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What part of a device's promise is kept, and seconds that no promise covers.

    `matrix` is for all that a layer does but attention's own products, which are `attention`; `memory` for streams,
    `weights` for reading weights that only a few rows are multiplied with; `link` is the part of a link's rate that
    collectives reach, `host` that of pinned copies. `launch` is the time that the host takes to put a layer's kernels
    on the device, beside the work itself where that is `asynchronous`; `latency` what a collective costs whatever its
    size.
    """

    matrix: float
    attention: float
    memory: float = 0.7
    weights: float = 0.73
    link: float = 0.8
    host: float = 0.8
    launch: float = 100e-6
    latency: float = 20e-6
    asynchronous: bool = True

    def with_launch(self, work: float, launch: float) -> float:
        """Seconds of work that takes so long on the device and so long to launch."""
        return max(work, launch) if self.asynchronous else work + launch


# `matrix` is fitted to what torchtitan publishes of FSDP2 without torch.compile for Llama 3 8B: 2,973 tokens a second
# and GPU on 64 A100, 5,762 on 8 H100; bench/time_published.py compares with its other figures. `attention`: the
# forward of FlashAttention 2 on each (arXiv 2307.08691, figure 5; arXiv 2407.08608, section 1). `weights` is fitted
# to one row at a time in vLLM, 13.3 ms a token of Llama 3.1 8B on an A100 of 40 GB. The rest is assumed.
_AMPERE = Reached(matrix=0.60, attention=0.5)
_HOPPER = Reached(matrix=0.36, attention=0.35)
# Fitted by bench/time_model.py to what one matrix product and one copy reach on the same processor. A product with
# few rows lays the weights out anew before it reads them.
_CPU = Reached(
    matrix=0.8,
    attention=0.3,
    memory=0.8,
    weights=0.35,
    launch=1e-3,
    latency=300e-6,
    asynchronous=False,
)

REACHED: dict[str, Reached] = {
    "cpu": _CPU,
    "gpu": _AMPERE,
    "a100": _AMPERE,
    "a100_40": _AMPERE,
    "l40s": _AMPERE,
    "h100": _HOPPER,
    "h200": _HOPPER,
    "b200": _HOPPER,
}
"""By the kind of hardware; those of B200 and L40S are those of the chips before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model in one phase: its facts, how the group is divided, on what, in which precision (bf16 or fp32).

    `sharded`: weights lie spread over dp and cp and are gathered layer by layer, as FSDP does.
    """

    facts: ModelFacts
    axes: Axes
    hardware: Hardware
    precision: str = "bf16"
    sharded: bool = True

    @property
    def reached(self) -> Reached:
        """What this hardware keeps of its promises."""
        return REACHED[self.hardware.name]

    @property
    def number(self) -> int:
        """Bytes of a number."""
        return BYTES[self.precision]

    @property
    def rate(self) -> float:
        """FLOP/s that a rank reaches in matrix products."""
        return self.hardware.flops(self.precision) * self.reached.matrix

    @property
    def attention_rate(self) -> float:
        """FLOP/s that a rank reaches in attention's own products."""
        return self.hardware.flops(self.precision) * self.reached.attention

    @property
    def bandwidth(self) -> float:
        """Bytes/s that a rank reaches from its own memory."""
        return self.hardware.bandwidth * self.reached.memory

    def link(self, ranks: int, stride: int = 1) -> float:
        """Bytes/s that a rank reaches in collectives of every `stride`-th of so many ranks."""
        return self.hardware.link_between(ranks, stride) * self.reached.link

    @property
    def parameters(self) -> float:
        """Those a rank works with: its part by tp and pp, of experts also by ep, before FSDP divides them."""
        blocks, axes = self.facts.blocks, self.axes
        return (blocks.total - blocks.experts + blocks.experts / axes.ep) / (axes.tp * axes.pp)

    @property
    def held(self) -> float:
        """Those a rank holds."""
        blocks, axes = self.facts.blocks, self.axes
        shards = axes.shards if self.sharded else 1
        experts = blocks.experts / axes.ep / max(1, shards // axes.ep)
        return ((blocks.total - blocks.experts) / shards + experts) / (axes.tp * axes.pp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a step, all ranks together: `samples` of each of `prompts` prompts, of so many tokens each."""

    prompts: int
    samples: int
    prompt_tokens: int
    response_tokens: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt_tokens + self.response_tokens

    @property
    def count(self) -> int:
        """Rows."""
        return self.prompts * self.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one replica computes in a forward: tokens in the layers, states in the head, FLOPs of attention."""

    tokens: int
    states: int
    attention: float


def packed_work(facts: ModelFacts, rows: Rows, replicas: int, *, pack: int = 512) -> Work:
    """What the packing engine computes for its part of `rows`: a prompt once for the samples that share a pack.

    Packs of up to `pack` tokens, or of one longer row, are padded to the widest and attended to whole, masked: the
    square of their width.
    """
    prompts = ceil(rows.prompts / replicas)
    together = min(rows.samples, max(1, (pack - rows.prompt_tokens) // max(1, rows.response_tokens)))
    # A tree is a prompt with the samples that fit beside it; small trees stand in one pack.
    trees = ceil(rows.samples / together)
    tree = rows.prompt_tokens + together * rows.response_tokens
    width = tree * min(max(1, pack // tree), prompts * trees)
    distinct = prompts * (trees * rows.prompt_tokens + rows.samples * rows.response_tokens)
    tokens = ceil(distinct / width) * width
    return Work(
        tokens=tokens,
        states=prompts * rows.samples * rows.response_tokens,
        attention=4 * facts.layers * facts.heads * facts.head_dim * width * tokens,
    )


def causal_work(facts: ModelFacts, rows: Rows, replicas: int) -> Work:
    """What an engine computes that takes rows one by one and skips what attention does not see."""
    count = ceil(rows.count / replicas)
    attention = count * facts.attention_flops(rows.length)
    return Work(tokens=count * rows.length, states=count * rows.response_tokens, attention=attention)


def forward_seconds(placed: Placed, work: Work, *, micro_batches: int = 1) -> float:
    """A forward of one replica's `work` in so many micro-batches, each of which gathers sharded weights anew.

    With pp the ranks wait (pp - 1) / micro_batches of the time (1F1B, arXiv 2104.04473).
    """
    busy = _layer_seconds(placed, work, micro_batches) + head_seconds(placed, work) + _tensor_seconds(placed, work)
    return max(busy, gather_seconds(placed) * micro_batches) * _bubble(placed.axes, micro_batches)


def train_seconds(
    placed: Placed,
    work: Work,
    *,
    micro_batches: int,
    recompute: float = 0.0,
    kept_logits: bool = True,
    trained: float = 1.0,
) -> float:
    """Forward and backward of one replica's `work`; the part `recompute` of the layers' forward is made again.

    1 is a forward of all layers, 0.5 that of every second matrix product. Logits that are not kept are made again as
    well. Of the parameters the part `trained` has gradients, which are summed over ranks in float32.
    """
    # A backward pass costs a forward for the inputs' gradients, and one for those of all weights.
    backward = 1 + trained
    layers = (1 + backward + recompute) * _layer_seconds(placed, work, micro_batches)
    head = (1 + backward + (0 if kept_logits else 1)) * head_seconds(placed, work)
    # What goes forth is summed in the forward, its gradient in the backward pass.
    busy = layers + head + (2 + recompute) * _tensor_seconds(placed, work)
    moved = micro_batches * (2 * gather_seconds(placed) + trained * reduce_seconds(placed))
    return max(busy, moved) * _bubble(placed.axes, micro_batches)


def optimizer_seconds(placed: Placed, *, trained: float = 1.0) -> float:
    """One AdamW step over the parameters that a rank holds, of which the part `trained` is trained."""
    return placed.held * trained * STEP_BYTES / placed.bandwidth


def generate_seconds(placed: Placed, rows: Rows, *, kv_budget: float | None = None) -> float:
    """Rollouts of one replica's rows: prompts once, then a token of all running rows at a time.

    `kv_budget`: bytes a rank has for keys and values (None: enough); rows beyond it wait, wave after wave.
    """
    mine = ceil(rows.prompts / placed.axes.dp)
    count = mine * rows.samples
    running = concurrent_rows(placed, rows, kv_budget, count)
    prompt = Work(
        tokens=mine * rows.prompt_tokens,
        states=mine,
        attention=mine * placed.facts.attention_flops(rows.prompt_tokens),
    )
    return forward_seconds(placed, prompt) + ceil(count / running) * rows.response_tokens * decode_seconds(
        placed, running, rows.prompt_tokens + rows.response_tokens // 2
    )


def concurrent_rows(placed: Placed, rows: Rows, kv_budget: float | None, count: int) -> int:
    """How many of `count` rows a replica can decode at a time: at least one, or nothing would ever end."""
    if kv_budget is None:
        return max(1, count)
    each = placed.facts.kv_bytes(rows.length, placed.number) / (placed.axes.tp * placed.axes.pp)
    return max(1, min(count, int(kv_budget / each)))


def decode_seconds(placed: Placed, running: int, length: int) -> float:
    """One token for each of `running` rows of `length` tokens: weights and keys read, or the products if longer.

    With pp as many groups of rows are under way as there are stages, so a stage reads its weights for each of them.
    """
    facts, axes = placed.facts, placed.axes
    ranks = axes.tp * axes.pp
    weights = _weights_read(placed, running) * placed.number / axes.tp
    keys = running * facts.kv_bytes(length, placed.number) / ranks
    read = weights / (placed.hardware.bandwidth * placed.reached.weights) + keys / placed.bandwidth
    products = running * (facts.trunk_flops + facts.head_flops) / ranks / placed.rate
    work = Work(tokens=running, states=running, attention=0.0)
    exchanged = _tensor_seconds(placed, work) + _tensor_latency(placed)
    return placed.reached.with_launch(max(read, products), facts.layers * placed.reached.launch) + exchanged


def gather_seconds(placed: Placed) -> float:
    """All weights of a stage, each rank's part sent to all: once a micro-batch."""
    shards = placed.axes.shards
    if not placed.sharded or shards == 1:
        return 0.0
    sent = placed.parameters * placed.number * (shards - 1) / shards
    collectives = placed.facts.layers / placed.axes.pp
    return sent / placed.link(shards, placed.axes.tp) + collectives * placed.reached.latency


def reduce_seconds(placed: Placed) -> float:
    """The sum of all gradients, in float32: left in parts where weights are sharded, else everywhere."""
    shards = placed.axes.shards
    if shards == 1:
        return 0.0
    ways = 1 if placed.sharded else 2
    sent = ways * placed.parameters * BYTES["fp32"] * (shards - 1) / shards
    return sent / placed.link(shards, placed.axes.tp) + placed.facts.layers / placed.axes.pp * placed.reached.latency


def exchange_seconds(hardware: Hardware, bytes_per_rank: float, ranks: int) -> float:
    """An all-to-all (a reshard) in which each of `ranks` ranks sends so many bytes."""
    if ranks == 1:
        return 0.0
    rate = hardware.link if ranks <= hardware.per_node else min(hardware.link, hardware.network)
    reached = REACHED[hardware.name]
    return bytes_per_rank / (rate * reached.link) + reached.latency


def sync_seconds(source: Placed, target: Placed, *, apart: int = 0) -> float:
    """Weights as trained to the rollout engine: gathered by all that need them, then copied.

    To ranks that hold none, `apart` of them with the senders: gathered by one, which sends each what it works with.
    """
    size = target.parameters * target.number
    if not apart:
        return gather_seconds(source) + size / target.bandwidth
    return gather_seconds(source) + exchange_seconds(source.hardware, size, apart)


def move_seconds(hardware: Hardware, size: float, tier: Tier) -> float:
    """`size` bytes of one rank to a tier (offload) or back (onload).

    They cross those before it one after the other, as if no two links were ever busy at once.
    """
    seconds = 0.0
    for below in hardware.tiers:
        seconds += size / (below.rate * REACHED[hardware.name].host)
        if below.tier is tier:
            break
    return seconds


def _layer_seconds(placed: Placed, work: Work, micro_batches: int) -> float:
    """Of the layers' products in a forward; none takes less than reading its weights, or launching it, does."""
    facts, axes = placed.facts, placed.axes
    ranks = axes.tp * axes.cp * axes.pp
    products = work.tokens * facts.trunk_flops / ranks / placed.rate
    attention = work.attention / ranks / placed.attention_rate
    read = micro_batches * placed.parameters * placed.number / placed.bandwidth
    launched = micro_batches * facts.layers / axes.pp * placed.reached.launch
    return placed.reached.with_launch(max(products + attention, read), launched)


def head_seconds(placed: Placed, work: Work) -> float:
    """Of the head in a forward, which is the last stage's; the others then wait for it, so pp does not divide it."""
    return work.states * placed.facts.head_flops / (placed.axes.tp * placed.axes.cp) / placed.rate


def _tensor_seconds(placed: Placed, work: Work) -> float:
    """What the layers of a forward exchange: two sums over tp each, keys over cp, tokens to experts and back."""
    facts, axes = placed.facts, placed.axes
    layers = facts.layers / axes.pp
    state = facts.hidden * placed.number
    tokens = work.tokens / axes.cp
    seconds = 0.0
    if axes.tp > 1:
        # A sum over n ranks sends 2 (n - 1) / n of the data.
        seconds += 2 * layers * tokens * state * 2 * (axes.tp - 1) / axes.tp / placed.link(axes.tp)
    if axes.cp > 1:
        keys = work.tokens * facts.kv_bytes_per_token(placed.number) / (axes.tp * axes.pp)
        seconds += keys * (axes.cp - 1) / axes.cp / placed.link(axes.cp, axes.tp)
    if axes.ep > 1:
        sent = tokens * facts.experts_per_token * state * (axes.ep - 1) / axes.ep / axes.tp
        rate = placed.hardware.link_between(axes.ep, axes.tp) * placed.reached.link
        seconds += 2 * facts.moe_layers / axes.pp * sent / rate
    return seconds


def _tensor_latency(placed: Placed) -> float:
    """Of two sums a layer, which nothing hides while rows are decoded."""
    return 2 * placed.facts.layers * placed.reached.latency if placed.axes.tp > 1 else 0.0


def _bubble(axes: Axes, micro_batches: int) -> float:
    return 1 + (axes.pp - 1) / micro_batches


def _weights_read(placed: Placed, running: int) -> float:
    """Parameters read for one token of `running` rows: of experts, those that some row is sent to.

    As if rows chose experts at random: each is left out by all with probability (1 - k / n) ** rows.
    """
    facts, blocks = placed.facts, placed.facts.blocks
    rest = blocks.total - blocks.vision - blocks.experts - (0 if facts.tied else blocks.embedding)
    if not facts.experts:
        return rest
    # Over ep the rows of all replicas meet.
    met = running * placed.axes.ep
    chosen = 1 - (1 - facts.experts_per_token / facts.experts) ** met
    return rest + blocks.experts * chosen / placed.axes.ep
