"""A tiny deterministic engine behind the executor's interface, for running many random programs.

In place of a transformer stands a decaying sum: the state at token i is tanh of the sum of E[token j] * DECAY ** (i - j)
over the tokens j that i may look at, its own among them. So it depends on all of a row's tokens and on their places;
log-probs, values and scores are linear in it, and gradients are exact. Everything else is the usual engine: prefix
trees, micro-batches, the training loop, AdamW, sampling by the inverse of the distribution, staleness. Each rank holds
whole weights, and gradients are summed over ranks: there is no FSDP, no KV cache and no checkpoint that others read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rldsl.backends.comm import Comm
from rldsl.backends.engines.engine import Engine
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.heads import token_logprob
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.module import Head
from rldsl.backends.engines.optim import Optimizer
from rldsl.backends.engines.packing import Ints, Layout, MicroBatch
from rldsl.backends.engines.sources import POLICY, REWARD, seeded
from rldsl.compiler.plan import ModelSpec

WIDTH = 6
DECAY = 0.7
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


class Characters:
    """One token a character, as the tokenizers of scratch models have it."""

    chat_template = None
    pad_token_id, bos_token_id, eos_token_id, unk_token_id = range(4)

    def __init__(self, alphabet: str) -> None:
        self._names = [*SPECIALS, *dict.fromkeys(alphabet)]
        self._ids = {name: i for i, name in enumerate(self._names)}

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [self._ids.get(c, self.unk_token_id) for c in text]}

    def get_vocab(self) -> Mapping[str, int]:
        return self._ids

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(self._names[t] for t in tokens if t >= len(SPECIALS))


class Cache:
    """The sums before tanh of the rows being sampled, f32[rows, WIDTH]."""

    def __init__(self, sums: Tensor) -> None:
        self.sums, self.length = sums, 0

    def keep(self, rows: Tensor) -> None:
        self.sums = self.sums[rows]

    def advance(self) -> None:
        self.length += 1


class DecayingSum(nn.Module):
    """What the engine calls a scorer: a trunk E [vocabulary, WIDTH], a head of its own, and those of other models."""

    def __init__(self, spec: ModelSpec, vocabulary: int, *, seed: int, heads: Sequence[str]) -> None:
        super().__init__()
        self.name, self.kind, self.head_names = spec.name, spec.kind, tuple(heads)
        with seeded(seed):
            embed = torch.randn(vocabulary, WIDTH)
            own = torch.randn(vocabulary, WIDTH) if spec.kind == POLICY else torch.randn(1, WIDTH)
            down = torch.randn(max(1, spec.lora_rank), WIDTH)
        self.embed = nn.Parameter(embed)
        self.own = nn.Parameter(own if spec.kind in (POLICY, REWARD) else torch.zeros_like(own))
        self.heads = nn.ParameterList(torch.zeros(1, WIDTH) for _ in heads)
        self.scale = spec.lora_alpha / spec.lora_rank if spec.lora_rank else 0.0
        if spec.lora_rank:
            self.lora_up = nn.Parameter(torch.zeros(vocabulary, spec.lora_rank))
            self.lora_down = nn.Parameter(down)

    def trunk(self) -> Tensor:
        """E, adapters merged."""
        return self.embed + self.scale * self.lora_up @ self.lora_down if self.scale else self.embed

    def beside(self, head: int | None) -> set[str]:
        """Names of the parameters of other heads."""
        others = {f"heads.{i}" for i in range(len(self.head_names)) if i != head}
        return others if head is None else others | {"own"}

    def check_length(self, longest: int) -> None:
        """No row is too long."""

    def forward(self, micro: MicroBatch, heads: Sequence[Head]) -> list[Tensor]:
        states = torch.tanh(self.sums(micro.layout)).flatten(0, 1)[micro.states]
        return [self._said(head, states, micro) for head in heads]

    def sums(self, layout: Layout) -> Tensor:
        """f32[packs, tokens, WIDTH] before tanh."""
        apart = layout.positions[:, :, None] - layout.positions[:, None, :]
        # A pack of one path has no mask: all that stands before is seen.
        visible = torch.ones_like(apart[0], dtype=torch.bool).tril() if layout.visible is None else layout.visible
        shares = torch.where(visible, DECAY ** apart.clamp(min=0).float(), 0.0)
        return shares @ self.trunk()[layout.tokens]

    def _said(self, head: Head, states: Tensor, micro: MicroBatch) -> Tensor:
        if self.kind == POLICY and head.number is None:
            return token_logprob(states, self.own, micro.pair_state, micro.pair_token, head.temperature)
        weight = self.own if head.number is None else self.heads[head.number]
        return (states @ weight.t())[micro.pair_state, 0]

    # What the sampler asks for

    def prefill(self, prompts: Sequence[Ints]) -> Cache:
        """The sums at the end of each prompt."""
        width = max(len(p) for p in prompts)
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        shares = torch.zeros(len(prompts), width)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = torch.from_numpy(prompt)
            shares[i, : len(prompt)] = DECAY ** torch.arange(len(prompt) - 1, -1, -1)
        return Cache((shares[:, None] @ self.trunk()[tokens])[:, 0])

    def body(self, tokens: Tensor, positions: Tensor, seen: Tensor, cache: Cache) -> Tensor:
        """States [rows, 1, WIDTH] behind one more token a row."""
        cache.sums = DECAY * cache.sums + self.trunk()[tokens[:, 0]]
        return torch.tanh(cache.sums)[:, None]

    def logits(self, states: Tensor) -> Tensor:
        return states @ self.own.t()


FAINT = 1e-6


class SummingOptimizer(Optimizer):
    """Every rank has all gradients of its own rows, whose sum all ranks then have.

    Numbers below `FAINT` are 0: they are what rounding leaves of sums that cancel, another thing in each order of rows,
    and AdamW would make whole steps of them.
    """

    def _gradients(self, head: int | None) -> Iterable[Tensor]:
        for gradient in super()._gradients(head):
            whole = self.comm.all_reduce(gradient)
            yield whole.masked_fill_(whole.abs() < FAINT, 0)

    def _norm(self, gradients: list[Tensor]) -> float:
        return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


class TinyModel(Model):
    """A model of this engine."""

    scorer: Any

    @classmethod
    def load(
        cls, spec: ModelSpec, *, comm: Comm, seed: int, heads: Sequence[ModelSpec] = (), trunk: Model | None = None
    ) -> TinyModel:
        if trunk is not None:
            made = cls.upon(trunk, spec)
            assert isinstance(made, TinyModel)
            return made
        chosen = spec.source_args.get("seed")
        assert spec.source == "scratch", "this engine makes small random models only"
        tokenizer = Characters(str(spec.source_args["alphabet"]))
        names = [h.name for h in heads]
        seed = seed if chosen is None else int(chosen)
        scorer: Any = DecayingSum(spec, len(tokenizer.get_vocab()), seed=seed, heads=names)
        trainable = spec.trainable or any(h.trainable for h in heads)
        for name, parameter in scorer.named_parameters():
            frozen = spec.lora_rank and name in ("embed", "own") and not (name == "own" and spec.kind != POLICY)
            parameter.requires_grad_(trainable and not frozen)
        optimizer = SummingOptimizer(scorer, comm) if trainable else None
        reads: Any = tokenizer
        return cls(spec, scorer, reads, comm, optimizer, trunk=spec)

    @contextmanager
    def layers(self) -> Iterator[None]:
        scale = self.scorer.scale
        self.scorer.scale = scale if self.spec.base_of is None else 0.0
        try:
            yield
        finally:
            self.scorer.scale = scale

    def each_weight(
        self, *, dtype: torch.dtype | None = None, comm: Comm | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        others = self.scorer.beside(self.head)
        whole = {name: p.detach() for name, p in self.scorer.named_parameters() if name not in others}
        plain = {n: w for n, w in whole.items() if not n.startswith("lora")}
        with self.layers():
            return iter((plain | {"embed": self.scorer.trunk().detach()}).items())

    def save(self, path: Path) -> None:
        weights = self.weights()
        if self.comm.rank == 0:
            path.mkdir(parents=True, exist_ok=True)
            torch.save(weights, path / "weights.pt")


class TinySampler(Sampler):
    """Samples from a decaying sum. With several ranks it keeps weights of its own until the plan syncs them."""

    def __init__(self, model: Model, *, seed: int, staleness: int = 0) -> None:
        self.seed, self.name, self.tokenizer = seed, model.spec.name, model.tokenizer
        self.own_copy = staleness > 0 or model.comm.world_size > 1
        self.device, self.literal = model.comm.device, True
        self.stops = {Characters.eos_token_id}
        self.scorer = model.scorer
        self.sync(model)

    def sync(self, model: Model, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        for _ in weights or ():
            pass
        self.scorer = deepcopy(model.scorer) if self.own_copy else model.scorer

    def places(self) -> Iterator[tuple[str, Tensor]]:
        """Adapters come merged; where this lies on other ranks than the training, its own are nothing."""
        return ((name, p) for name, p in self.scorer.named_parameters() if name in ("embed", "own"))

    def _waves(self, prompts: int, columns: int, n: int) -> Iterator[tuple[int, int]]:
        if prompts:
            yield 0, prompts

    def _prefill(self, prompts: list[Ints], columns: int, n: int) -> tuple[Any, Tensor, Tensor, Tensor]:
        scorer: Any = self.scorer
        cache = scorer.prefill(prompts)
        logits = scorer.logits(torch.tanh(cache.sums))
        cache.sums = cache.sums.repeat_interleave(n, 0)
        lengths = torch.tensor([len(p) for p in prompts]).repeat_interleave(n)
        return cache, logits, lengths, torch.zeros(len(lengths), columns, dtype=torch.bool)


TINY = Engine(load=TinyModel.load, sampler=TinySampler)
