"""One model of a plan on this rank: weights, tokenizer, and the optimiser if it is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import checkpoint, lora, score, sources, train
from rldsl.backends.engines.memory import keep_freed_memory
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.optim import Optimizer, local
from rldsl.backends.engines.recompute import layers_of
from rldsl.compiler.ops import TrainOp
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import fail
from rldsl.types import TokenLoss

BF16 = "bf16"


class Model:
    """One ModelSpec on this rank, sharded by FSDP2 over `comm` when it has more than one rank.

    `precision` bf16 computes in bfloat16 over float32 masters; frozen weights have no masters. Models that share a
    trunk share scorer and optimiser: `trunk` is the spec it was loaded by, `head` the number of this model's head
    there, None for its own. The base of a model with adapters shares its scorer, and has no optimiser.
    """

    def __init__(
        self,
        spec: ModelSpec,
        scorer: Scorer,
        tokenizer: PreTrainedTokenizerBase,
        comm: Comm,
        optimizer: Optimizer | None,
        *,
        trunk: ModelSpec,
        head: int | None = None,
    ) -> None:
        self.spec, self.scorer, self.tokenizer, self.comm = spec, scorer, tokenizer, comm
        self.optimizer, self.trunk, self.head = optimizer, trunk, head

    @classmethod
    def load(
        cls, spec: ModelSpec, *, comm: Comm, seed: int, heads: Sequence[ModelSpec] = (), trunk: Model | None = None
    ) -> Model:
        """Load or build the weights. Every rank of `comm` must call it.

        For value models that share a trunk: load the trunk's model with all their specs as `heads`, then each of them
        with that model as `trunk`, which loads nothing more; so too the base of a model with adapters. The trunk trains
        if any of these specs is trainable, and a step with any head moves it: the trunk's model then has new weights
        too. With `lora_rank`, only adapters and heads of values train; a frozen model needs no adapters. Errors as
        `sources.load`, `lora.add_adapters` and `Scorer` have them, and RL0607 for a trunk that could not be saved with
        another head.
        """
        if trunk is not None:
            return cls.upon(trunk, spec)
        if comm.device.type == "cpu":
            keep_freed_memory()
        loaded = sources.load(spec, seed=seed)
        scorer = _scorer(loaded.module, spec, heads, seed=seed).to(comm.device)
        optimizer = _placed(scorer, comm, _dtype(spec))
        return cls(spec, scorer, loaded.tokenizer, comm, optimizer, trunk=spec)

    @classmethod
    def upon(cls, trunk: Model, spec: ModelSpec) -> Model:
        """A model that runs through the layers of `trunk`: a further head, or `trunk` without its adapters."""
        if spec.base_of is not None:
            return cls(spec, trunk.scorer, trunk.tokenizer, trunk.comm, None, trunk=trunk.trunk)
        assert spec.kind == sources.VALUE, f"`{spec.name}` is no value model: only these share trunks"
        head = trunk.scorer.head_names.index(spec.name)
        return cls(spec, trunk.scorer, trunk.tokenizer, trunk.comm, trunk.optimizer, trunk=trunk.trunk, head=head)

    @property
    def sharded(self) -> bool:
        """Whether this rank holds only a part of each parameter."""
        return isinstance(self.scorer, FSDPModule)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return _dtype(self.trunk)

    def logprob(self, tokens: Ragged, response_mask: Ragged, *, temperature: float) -> Ragged:
        """f32[sample, token]: log-probs of the response tokens at `temperature` (0 counts as 1), 0 elsewhere."""
        return self.answers(tokens, [self.ask(response_mask, temperature)])[0]

    def value(self, tokens: Ragged, response_mask: Ragged) -> Ragged:
        """f32[sample, token]: the value before each response token, 0 elsewhere."""
        return self.answers(tokens, [self.ask(response_mask)])[0]

    def ask(self, response_mask: Ragged, temperature: float = 1.0, logits: int = 0) -> score.Ask:
        """What to ask of this model: log-probs of a policy at `temperature` (0 counts as 1), the values of others.

        `logits` as `Head` has them.
        """
        return score.Ask(Head(self.head, temperature or 1.0, logits), response_mask)

    def answers(self, tokens: Ragged, asks: Sequence[score.Ask], *, micro_batch_tokens: int = 0) -> list[Ragged]:
        """f32[sample, token] for each ask of this model or of another on its trunk, by one forward.

        A micro-batch has up to `micro_batch_tokens`, 0: as many as the engine likes.
        """
        with self.layers():
            return score.per_token(self.scorer, self.comm, tokens, asks, micro_batch_tokens=micro_batch_tokens)

    def layers(self) -> AbstractContextManager[None]:
        """Inside, the scorer's layers are those of this model: without adapters, if it lies beneath them."""
        return nullcontext() if self.spec.base_of is None else lora.without_adapters(self.scorer)

    def score(self, tokens: Ragged, response_mask: Ragged, *, micro_batch_tokens: int = 0) -> Tensor:
        """f32[sample]: a reward model's number at the last token of each row, as transformers' classifiers have it.

        The end token counts, also where it is the padding token as well. A row without a response has a score too.
        """
        assert self.spec.kind == sources.REWARD, f"`{self.spec.name}` is no reward model"
        assert len(tokens) == len(response_mask)
        return score.per_row(self.scorer, self.comm, tokens, micro_batch_tokens=micro_batch_tokens)

    def train(self, op: TrainOp, batch: train.TrainBatch, loss: Callable[..., TokenLoss]) -> dict[str, float]:
        """Run `op` on this rank's rows; see `train.train`."""
        assert self.optimizer is not None, f"model `{self.spec.name}` is frozen"
        return train.train(self.scorer, self.optimizer, self.comm, op, batch, loss, head=self.head)

    def weights(self, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Every parameter whole, adapters merged, by its Hugging Face name; collective when sharded.

        In `dtype`; by default float32 if trainable, else as held. Unsharded weights without adapters that have this
        dtype already are not copied.
        """
        return dict(self.each_weight(dtype=dtype))

    def each_weight(
        self, *, dtype: torch.dtype | None = None, comm: Comm | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """As `weights`, one after the other, in an order that all ranks have: each is gathered when asked for.

        Over `comm`, the ranks of the model's own by default. Which tensors there are is looked up at once: during a
        forward, as another thread may see it, FSDP2 has others in their places.
        """
        return self._each(dtype, partial(_whole, comm=comm or self.comm))

    def _each(self, dtype: torch.dtype | None, whole: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
        masters = {} if self.optimizer is None else self.optimizer.masters
        others = self.scorer.beside(self.head)
        held = {n: masters.get(n, p) for n, p in self.scorer.named_parameters() if n not in others}
        if dtype is None and masters:
            dtype = torch.float32
        plain = lora.plain(held, self.trunk, whole, merged=self.spec.base_of is None)
        return _one_by_one(plain, dtype)

    def save(self, path: Path) -> None:
        """Write weights and tokenizer to the directory `path`, in place of what is there; the first rank writes.

        `transformers.AutoModelForCausalLM.from_pretrained(path)` loads it (a value model:
        AutoModelForTokenClassification). The directory appears whole or not at all. Weights are gathered and written
        one after the other. Collective when sharded.
        """
        weights = self.each_weight()
        if self.comm.rank:
            deque(weights, maxlen=0)
            return
        like = self.scorer.model
        hollow = hollow_module(like, as_value=self.head is not None)
        kept = like.state_dict().keys()
        buffers = dict(sorted(((n, b) for n, b in like.named_buffers() if n in kept), key=lambda b: -b[1].itemsize))
        shapes = {**{n: _shape(b) for n, b in buffers.items()}, **dict(self._each(None, _shape))}
        left = [n for n, _ in hollow.named_parameters() if n not in shapes]
        assert not left, f"no weights for {left}"
        checkpoint.write(path, hollow, shapes, chain(buffers.items(), weights), self.tokenizer)


def _one_by_one(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names that they are published by; nothing is held here while the next is gathered."""
    for name, weight in weights:
        made = weight.detach().to(dtype or weight.dtype)
        del weight
        yield published(name), made
        del made


def _dtype(spec: ModelSpec) -> torch.dtype:
    return torch.bfloat16 if spec.precision == BF16 else torch.float32


def published(name: str) -> str:
    """The Hugging Face name of a parameter of a scorer: there the one further head is `score`."""
    return f"score.{name.rpartition('.')[2]}" if name.startswith("heads.") else name.removeprefix("model.")


def _whole(parameter: Tensor, comm: Comm) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    return comm.all_gather_rows(local(parameter.detach()).contiguous(), len(parameter))


def _shape(tensor: Tensor) -> Tensor:
    """A whole tensor of that shape and dtype, without memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _scorer(module: PreTrainedModel, spec: ModelSpec, heads: Sequence[ModelSpec], *, seed: int) -> Scorer:
    """With adapters and heads, and with a gradient required where something is to be trained."""
    trainable = spec.trainable or any(h.trainable for h in heads)
    adapted = trainable and spec.lora_rank > 0
    if adapted:
        lora.add_adapters(module, spec, seed=seed)
    scorer = Scorer(module, kind=spec.kind, name=spec.name, heads=[h.name for h in heads])
    if heads:
        _check_other_heads(scorer)
    for name, parameter in scorer.named_parameters():
        trained = not adapted or lora.is_adapter(name) or scorer.is_number_head(name)
        parameter.requires_grad_(trainable and trained)
    return scorer


def _check_other_heads(scorer: Scorer) -> None:
    config = scorer.model.config
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        fail(
            "RL0607",
            f"model `{scorer.name}`: transformers has no `{config.model_type}` model with a value head",
            expected="a trunk that others can share, such as Llama, Qwen or Mistral",
            fix="let the value model have a trunk of its own, from another model",
        )


def _placed(scorer: Scorer, comm: Comm, dtype: torch.dtype) -> Optimizer | None:
    """Shard or cast the weights; the optimiser of those that require a gradient, if any."""
    sharded = comm.world_size > 1
    trainable = {n: p for n, p in scorer.named_parameters() if p.requires_grad}
    exact = {} if sharded else {n: p.detach() for n, p in trainable.items()}
    # Sharded weights that train stay float32: FSDP casts as it gathers.
    _to(dtype, (p for p in scorer.parameters() if not (sharded and p.requires_grad)))
    if sharded:
        _shard(scorer, comm, dtype)
    if not trainable:
        return None
    optimizer = Optimizer(scorer, comm)
    optimizer.load_masters(exact)
    return optimizer


def _shard(scorer: Scorer, comm: Comm, dtype: torch.dtype) -> None:
    """FSDP2: one group a layer, one for the rest. Gradients are summed: the loss is divided by global counts."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    parts = layers_of(scorer.model)
    for part in (*parts, scorer):
        fully_shard(part, mesh=comm.mesh(), mp_policy=policy)
    for part in (*parts, scorer):
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        # gloo has no pre-multiplied sum, which a divide factor would otherwise ask for.
        part.set_force_sum_reduction_for_comms(True)


def _to(dtype: torch.dtype, parameters: Iterable[Tensor]) -> None:
    """Parameters only: buffers such as rotary frequencies lose their meaning in 8 bits."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def whole_module(like: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """An unsharded model of the same architecture around `weights`, which it shares, and the buffers of `like`."""
    made = hollow_module(like)
    made.load_state_dict(dict(weights), strict=False, assign=True)
    made.tie_weights()
    for name, buffer in like.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(owner), leaf, buffer)
    left = [n for n, p in made.named_parameters() if p.is_meta]
    assert not left, f"no weights for {left}"
    return made


def hollow_module(like: PreTrainedModel, *, as_value: bool = False) -> PreTrainedModel:
    """A model on the meta device, of the same architecture, or with a value head in place of its own."""
    settings = like.config.to_dict() | (sources.ONE_LABEL if as_value else {})
    config: Any = type(like.config).from_dict(settings)
    build: Any = AutoModelForTokenClassification.from_config if as_value else type(like)
    with torch.device("meta"):
        made: PreTrainedModel = build(config)
    made.tie_weights()
    if made.can_generate():
        made.generation_config = like.generation_config
    return made
