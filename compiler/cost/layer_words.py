"""The arithmetic of a layer's bytes in words: each sum of `Layer` once more, by its factors.

A sum is told only where it comes to the same number, so that nothing is said that was not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from rldsl.compiler.cost.activations import FLOAT32, INT64, Attention, Layer
from rldsl.compiler.cost.shard import numbers
from rldsl.compiler.ops import Recompute

_NORM_TEMPORARIES = 5  # as in `activations`


@dataclass(frozen=True, slots=True)
class Part:
    """`factors`, with their names, of which a sum has the product; `less`: it is taken away."""

    what: str
    factors: tuple[tuple[int, str], ...]
    less: bool = False

    @property
    def bytes(self) -> int:
        """The product."""
        return prod(number for number, _ in self.factors) * (-1 if self.less else 1)

    def __str__(self) -> str:
        """`queries and output 2 x 8,191 places x 3,584 wide x 2 B`."""
        return f"{self.what} {' x '.join(f'{number:,} {name}'.strip() for number, name in self.factors)}"


Parts = tuple[Part, ...]


def told(parts: Iterable[Part], total: int) -> str:
    """The sum in words; empty where it does not come to `total`."""
    there = [p for p in parts if p.bytes]
    if sum(p.bytes for p in there) != total:
        return ""
    more = "".join(f" {'-' if p.less else '+'} {p}" for p in there[1:])
    return f"{there[0]}{more}" if there else ""


class LayerWords:
    """What is said of one layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.shard = layer, layer.shard
        self.places, self.width, self.hidden = layer.places, layer.width, layer.shard.hidden
        # With sequence parallelism a rank has some of the places between matrices.
        self.spread = layer.stream // (self.width * self.hidden)
        self.gathered = self.width * self.places * self.hidden if self.spread < self.places else 0

    def _of(self, what: str, *factors: tuple[int, str], less: bool = False, width: int | None = None) -> Part:
        size = self.width if width is None else width
        return Part(what, (*factors, (size, "B")), less)

    def _wide(self, what: str, places: int, wide: int, count: int = 1, *, width: int | None = None) -> Part:
        several = ((count, ""),) if count > 1 else ()
        return self._of(what, *several, (places, "places"), (wide, "wide"), width=width)

    @property
    def norms(self) -> Parts:
        """Float32 copies, normalised values, results."""
        facts, shard = self.shard.facts, self.shard
        inside = shard.queries + shard.keys if facts.qk_norm else 0
        heads = shard.heads + shard.kv_heads if facts.qk_norm else 0
        both = FLOAT32 + self.width
        return (
            self._wide("inputs in float32 and normalised", self.spread, self.hidden, facts.norms, width=both),
            self._wide("those of queries and keys", self.places, inside, width=both),
            self._wide("results that matrices read", self.spread, self.hidden, 2),
            self._of("root mean squares", (facts.norms, ""), (self.spread, "places"), width=FLOAT32),
            self._of("those of heads", (heads, "heads"), (self.places, "places"), width=FLOAT32),
        )

    @property
    def attention(self) -> Parts:
        """Of SDPA or flash attention."""
        shard = self.shard
        masked = self.layer.attention is Attention.MASKED and shard.heads > shard.kv_heads
        what = "queries, and the output twice, as keys are shared under a mask," if masked else "queries and output"
        seen = self.places * shard.axes.cp
        return (
            self._wide(what, self.places, shard.queries, 3 if masked else 2),
            self._wide("keys and values", seen, shard.keys, 2),
            self._of("normalisers", (self.places, "places"), (shard.heads, "heads"), width=FLOAT32),
        )

    @property
    def _sent(self) -> int:
        """Pairs of a place and an expert that it is sent to, on this rank."""
        each = (4 * self.shard.expert_intermediate + 2 * self.hidden) * self.width + 5 * INT64
        return (self.layer.mlp - self._of_all_experts) // each

    @property
    def _of_all_experts(self) -> int:
        routing = (FLOAT32 + self.width) * self.spread * self.shard.facts.experts
        return routing + 4 * self.width * self.places * self.shard.shared_intermediate

    @property
    def mlp(self) -> Parts:
        """Of the dense MLP, or of experts and their router."""
        shard, four = self.shard, "gate, its activation, up projection, their product"
        if not self.layer.moe:
            return (self._wide(four, self.places, shard.intermediate, 4),)
        sent = (self._sent, "places sent to experts")
        return (
            self._of(four, (4, ""), sent, (shard.expert_intermediate, "wide")),
            self._of("inputs and outputs of experts", (2, ""), sent, (self.hidden, "wide")),
            self._of("where they are sent", (5, ""), sent, width=INT64),
            self._of(
                "the router's scores",
                (self.spread, "places"),
                (shard.facts.experts, "experts"),
                width=FLOAT32 + self.width,
            ),
            self._wide(f"of the shared expert {four}", self.places, shard.shared_intermediate, 4),
        )

    @property
    def adapters(self) -> Parts:
        """First products of low-rank adapters."""
        rank = self.shard.lora.rank if self.shard.lora else 0
        matrices = (4 if self.layer.moe else 7, "matrices")
        return (self._of("first products", matrices, (self.places, "places"), (rank, "ranks")),)

    @property
    def selected(self) -> Parts:
        """What selective recomputation keeps."""
        shard = self.shard
        both = "queries, keys, values and attention's output"
        start = (
            self._wide("the layer's input", self.spread, self.hidden),
            self._wide(both, self.places, 2 * (shard.queries + shard.keys)),
            self._wide("the result of attention's last matrix", self.places, self.hidden),
            self._of("normalisers", (self.places, "places"), (shard.heads, "heads"), width=FLOAT32),
        )
        if not self.layer.moe:
            return (
                *start,
                self._wide("gate and up projection", self.places, shard.intermediate, 2),
                self._wide("the MLP's result", self.places, self.hidden),
            )
        sent = (self._sent, "places sent to experts")
        return (
            *start,
            self._of("results of experts", sent, (2 * shard.expert_intermediate + self.hidden, "wide")),
            self._of("the router's results", (self.spread, "places"), (shard.facts.experts, "experts")),
        )

    def kept(self, recompute: Recompute) -> Mapping[int, str]:
        """By the bytes of each part of `kept_parts` its words."""
        parts = {
            "norms": self.norms,
            "attention": self.attention,
            "MLP": self.mlp,
            "adapters": self.adapters,
            "results of matrices and attention": self.selected,
            "inputs of layers": (self._wide("", self.spread, self.hidden),),
        }
        kept = self.layer.kept_parts(recompute)
        return {size: told(parts[what], size).strip() for what, size in kept.items()}

    def backward(self, recompute: Recompute) -> str:
        """Of the layer's own backward pass: what is made again, and what comes beside it at the worst point."""
        again = self.layer.made_again(recompute)
        made = ""
        if again == self.layer.saved:
            whole = told((*self.norms, *self.attention, *self.mlp, *self.adapters), again)
            made = f"made again {again:,} B ({whole}); " if whole else ""
        elif again:
            saved, less = self.layer.saved, self.layer.saved - again
            made = f"made again {again:,} B ({saved:,} B that a layer has, without {less:,} B that are kept); "
        for point, parts in self._points:
            if found := told(parts, self.layer.backward):
                return f"{made}{point} {found}"
        return ""

    @property
    def _points(self) -> tuple[tuple[str, Parts], ...]:
        """The points of the backward pass, each with what is there beside what was saved."""
        shard, layer = self.shard, self.layer
        temporaries = _NORM_TEMPORARIES * FLOAT32
        norm = (
            self._wide("a norm's temporaries in float32", self.spread, self.hidden, width=temporaries),
            self._wide("the gradient of its input and output", self.spread, self.hidden, 2),
        )
        stream = self._wide("the stream's gradient", self.spread, self.hidden)
        trained = layer.trained
        gradients = "gradients of parameters"
        done = Part("what the MLP had saved", ((layer.mlp, "B"),), less=True)
        read = Part("what attention had saved", ((layer.attended, "B"),), less=True)
        half = Part("half of what norms had", ((layer.norms // 2, "B"),), less=True)
        of_mlp = numbers(shard.expert_tensors) if layer.moe else shard.mlp_parameters
        dense = numbers(shard.layer_tensors(moe=layer.moe))
        everything = dense + (numbers(shard.expert_tensors) if layer.moe else 0)
        if layer.moe:
            sent = (self._sent, "places sent to experts")
            early: Parts = (self._of("gradients of experts' inputs", (3, ""), sent, (self.hidden, "wide")), stream)
            gone = self._of("of what was saved", (2, ""), sent, (shard.expert_intermediate, "wide"), less=True)
            middle: Parts = (self._of(gradients, (of_mlp * trained, "in the experts")), gone)
        else:
            third = self._of(gradients, (of_mlp // 3 * trained, "in one matrix"))
            early = (self._wide("gradients of gate and up", self.places, shard.intermediate, 2), stream, third)
            middle = (self._of(gradients, (of_mlp * trained, "in the MLP")), *norm, done)
        last = (self._of(gradients, (everything * trained, "in the layer")), *norm, read, done, half)
        return ("early, in the MLP:", early), ("midway, behind the MLP:", middle), ("at its end:", last)

    @property
    def forward(self) -> str:
        """Of a forward pass without gradients, at its worst point."""
        shard, layer = self.shard, self.layer
        stream = self._wide("the residual stream", self.spread, self.hidden, 4)
        whole = Part("the stream gathered", ((self.gathered, "B"),))
        copies = 4 if layer.attention is Attention.MASKED else 3
        seen = self.places * shard.axes.cp
        attention = (
            whole,
            self._wide("queries, output and copies of them", self.places, shard.queries, copies),
            self._wide("keys and values", seen, shard.keys, 2),
        )
        points: list[Parts] = [
            (self._wide("a norm's temporaries in float32", self.spread, self.hidden, 2, width=FLOAT32),),
            attention,
        ]
        if layer.moe:
            sent = (self._sent, "places sent to experts")
            routed = (
                self._of("where they are sent", (5, ""), sent, width=INT64),
                self._of("scores", (2, ""), (self.spread, "places"), (shard.facts.experts, "experts"), width=FLOAT32),
            )
            inside = self._of("inside experts", sent, (self.hidden + 4 * shard.expert_intermediate, "wide"))
            outputs = self._of("outputs of experts", (4, ""), sent, (self.hidden, "wide"))
            points += [(whole, inside, *routed), (whole, outputs, *routed)]
        else:
            points.append((whole, self._wide("gate, up projection, product", self.places, shard.intermediate, 3)))
        return next((found for point in points if (found := told((stream, *point), layer.forward))), "")
