"""The part of a model that one rank works with once tp, pp and ep have cut it; FSDP then spreads its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.model_facts import Head, Linear, ModelFacts

# tp cuts these by rows: each rank has some of the inputs, and the whole bias. All others are cut by columns.
_BY_ROWS = ("o_proj", "down_proj")
_ONE = Axes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A parameter: FSDP cuts it by `rows`, each of `columns` numbers."""

    rows: int
    columns: int = 1

    @property
    def numbers(self) -> int:
        """How many."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Adapters of `rank` beside those linear layers of the trunk whose names are in `targets`; all if it is empty."""

    rank: int
    targets: frozenset[str] = frozenset()

    def beside(self, linear: Linear) -> bool:
        """Whether this matrix has an adapter."""
        return not self.targets or linear.name in self.targets


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One rank's part of `facts`: stage `stage` of `axes.pp`, a tp-th of heads, MLP, vocabulary, an ep-th of experts.

    Layers are dealt out evenly, those that are left over to the first stages (so is the estimate of the first stage
    never too small). Adapters are beside dense matrices only, as `peft` has them.
    """

    facts: ModelFacts
    axes: Axes = _ONE
    stage: int = 0
    lora: Lora | None = None

    @property
    def first(self) -> bool:
        """Whether the embedding is here."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether the head is here."""
        return self.stage == self.axes.pp - 1

    @cached_property
    def moe_layers(self) -> int:
        """Layers with experts on this rank."""
        return -(-self.facts.moe_layers // self.axes.pp)

    @cached_property
    def dense_layers(self) -> int:
        """Layers without experts on this rank."""
        return -(-self.facts.dense_layers // self.axes.pp)

    @property
    def layers(self) -> int:
        """All layers on this rank."""
        return self.moe_layers + self.dense_layers

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.facts.hidden

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.facts.heads // self.axes.tp

    @property
    def kv_heads(self) -> int:
        """Key heads; where there are fewer than ranks, each rank has one."""
        return max(1, self.facts.kv_heads // self.axes.tp)

    @property
    def queries(self) -> int:
        """Numbers in a token's queries."""
        return self.heads * self.facts.head_dim

    @property
    def keys(self) -> int:
        """Numbers in a token's keys; as many in its values."""
        return self.kv_heads * self.facts.head_dim

    @property
    def intermediate(self) -> int:
        """Width of a dense MLP."""
        return self.facts.intermediate // self.axes.tp

    @property
    def expert_intermediate(self) -> int:
        """Width of one expert."""
        return self.facts.expert_intermediate // self.axes.expert_tp

    @property
    def shared_intermediate(self) -> int:
        """Width of the expert that all tokens see."""
        return self.facts.shared_intermediate // self.axes.tp

    @property
    def vocab(self) -> int:
        """Rows of the embedding and of the head."""
        return -(-self.facts.vocab // self.axes.tp)

    def _cut(self, linear: Linear) -> tuple[Tensor, ...]:
        """A matrix and its bias on this rank, as transformers lays them out: outputs first, experts before these."""
        tp = self.axes.tp if linear.copies == 1 else self.axes.expert_tp
        tp = 1 if linear.name in ("gate", "shared_expert_gate") else tp
        inputs, outputs = linear.inputs, linear.outputs // tp
        if linear.name in _BY_ROWS:
            inputs, outputs = linear.inputs // tp, linear.outputs
        if linear.name in ("k_proj", "v_proj"):
            outputs = self.keys
        bias = (Tensor(rows=outputs),) if linear.bias else ()
        if linear.copies == 1:
            return (Tensor(rows=outputs, columns=inputs), *bias)
        return (Tensor(rows=linear.copies // self.axes.ep, columns=(inputs + linear.bias) * outputs),)

    def layer_tensors(self, *, moe: bool) -> tuple[Tensor, ...]:
        """Of one layer, experts left out."""
        facts = self.facts
        shared = tuple(linear for linear in facts.expert_linears if linear.copies == 1)
        mlp = (facts.router, *shared) if moe else facts.mlp_linears
        found = [t for linear in (*facts.attention_linears, *mlp) for t in self._cut(linear)]
        norms = [Tensor(rows=facts.head_dim)] * (2 if facts.qk_norm else 0)
        return (*found, *norms, *[Tensor(rows=self.hidden)] * facts.norms)

    @cached_property
    def expert_tensors(self) -> tuple[Tensor, ...]:
        """Of a layer with experts: those of all experts together."""
        return tuple(t for linear in self.facts.expert_linears if linear.copies > 1 for t in self._cut(linear))

    def adapter_tensors(self, *, moe: bool) -> tuple[Tensor, ...]:
        """Both factors beside each dense matrix of one layer."""
        if self.lora is None:
            return ()
        linears = (*self.facts.attention_linears, *(() if moe else self.facts.mlp_linears))
        cut = (self._cut(linear)[0] for linear in linears if self.lora.beside(linear))
        rank = self.lora.rank
        return tuple(t for m in cut for t in (Tensor(rows=rank, columns=m.columns), Tensor(rows=m.rows, columns=rank)))

    @cached_property
    def root_tensors(self) -> tuple[Tensor, ...]:
        """What belongs to no layer: embedding, head, the last norm."""
        facts, words = self.facts, Tensor(rows=self.vocab, columns=self.hidden)
        language = facts.head is Head.LM
        found = [words] if self.first or (self.last and language and facts.tied) else []
        if self.last:
            found.append(Tensor(rows=self.hidden))
            if not language:
                found.append(Tensor(rows=1, columns=facts.blocks.head))
            elif not facts.tied:
                found.append(words)
        return tuple(found)

    @cached_property
    def kinds(self) -> tuple[bool, ...]:
        """Whether this rank has dense layers (False) and layers with experts (True)."""
        return tuple(moe for moe, there in ((False, self.dense_layers), (True, self.moe_layers)) if there)

    def count(self, moe: bool) -> int:
        """Layers of a kind."""
        return self.moe_layers if moe else self.dense_layers

    @cached_property
    def mlp_parameters(self) -> int:
        """Of one layer's dense MLP."""
        return numbers(t for linear in self.facts.mlp_linears for t in self._cut(linear))

    @property
    def head_parameters(self) -> int:
        """Of the matrix to the vocabulary, also where it is the embedding; 0 where it is not or has one output."""
        return self.vocab * self.hidden if self.last and self.facts.head is Head.LM else 0

    @property
    def vision_parameters(self) -> int:
        """Of the vision tower, on the first stage; tp leaves it whole."""
        return self.facts.vision.parameters if self.facts.vision and self.first else 0

    @cached_property
    def parameters(self) -> int:
        """Of this rank's part, adapters left out."""
        return sum(
            self.count(m) * (numbers(self.layer_tensors(moe=m)) + (numbers(self.expert_tensors) if m else 0))
            for m in self.kinds
        ) + (numbers(self.root_tensors) + self.vision_parameters)

    @cached_property
    def largest_layer_tensor(self) -> int:
        """Numbers in the largest of a layer; transformers keeps gate and up projections of all experts in one."""
        found = [t.numbers for m in self.kinds for t in self.layer_tensors(moe=m)]
        return max(*found, 2 * numbers(self.expert_tensors) // 3)

    @property
    def largest_tensor(self) -> int:
        """Numbers in the largest of all."""
        return max([self.largest_layer_tensor, *(t.numbers for t in self.root_tensors)])


def numbers(tensors: Iterable[Tensor], ranks: int = 1) -> int:
    """Numbers in them, with what FSDP pads them by to cut their rows for so many ranks."""
    return sum(-(-t.rows // ranks) * ranks * t.columns for t in tensors)
