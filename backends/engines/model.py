"""One model of a plan on this rank: weights, tokenizer, and the optimiser if it is trained."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import score, sources, train
from rldsl.backends.engines.memory import keep_freed_memory
from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.optim import Optimizer
from rldsl.compiler.plan import ModelSpec, TrainOp
from rldsl.types import TokenLoss

BF16 = "bf16"


class Model:
    """One ModelSpec on this rank, sharded by FSDP2 over `comm` when it has more than one rank.

    `precision` bf16 computes in bfloat16 over float32 masters; a frozen model has no masters.
    """

    def __init__(self, spec: ModelSpec, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, comm: Comm) -> None:
        self.spec, self.scorer, self.tokenizer, self.comm = spec, scorer, tokenizer, comm
        self.optimizer = Optimizer(scorer, comm) if spec.trainable else None

    @classmethod
    def load(cls, spec: ModelSpec, *, comm: Comm, seed: int) -> Model:
        """Load or build the weights. Every rank of `comm` must call it; errors as `sources.load` has them."""
        if comm.device.type == "cpu":
            keep_freed_memory()
        loaded = sources.load(spec, seed=seed)
        scorer = Scorer(loaded.module, kind=spec.kind, name=spec.name).to(comm.device)
        scorer.requires_grad_(spec.trainable)
        if comm.world_size > 1:
            _shard(scorer, comm, spec.precision)
            return cls(spec, scorer, loaded.tokenizer, comm)
        if spec.precision != BF16:
            return cls(spec, scorer, loaded.tokenizer, comm)
        exact = {n: p.detach() for n, p in scorer.named_parameters()} if spec.trainable else {}
        _to_bf16(scorer)
        model = cls(spec, scorer, loaded.tokenizer, comm)
        if model.optimizer is not None:
            model.optimizer.load_masters(exact)
        return model

    @property
    def sharded(self) -> bool:
        """Whether this rank holds only a part of each parameter."""
        return isinstance(self.scorer, FSDPModule)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return torch.bfloat16 if self.spec.precision == BF16 else torch.float32

    def logprob(self, tokens: Ragged, response_mask: Ragged, *, temperature: float) -> Ragged:
        """f32[sample, token]: log-probs of the response tokens at `temperature` (0 counts as 1), 0 elsewhere."""
        return self._score(tokens, response_mask, temperature or 1.0)

    def value(self, tokens: Ragged, response_mask: Ragged) -> Ragged:
        """f32[sample, token]: the value before each response token, 0 elsewhere."""
        return self._score(tokens, response_mask, 1.0)

    def _score(self, tokens: Ragged, response_mask: Ragged, temperature: float) -> Ragged:
        return score.score(self.scorer, self.comm, tokens, response_mask, temperature=temperature)

    def train(self, op: TrainOp, batch: train.TrainBatch, loss: Callable[..., TokenLoss]) -> dict[str, float]:
        """Run `op` on this rank's rows; see `train.train`."""
        assert self.optimizer is not None, f"model `{self.spec.name}` is frozen"
        return train.train(self.scorer, self.optimizer, self.comm, op, batch, loss)

    def weights(self) -> dict[str, Tensor]:
        """Every parameter whole, by its Hugging Face name; float32 if trainable. Collective when sharded."""
        held = dict(self.scorer.named_parameters()) if self.optimizer is None else self.optimizer.masters
        whole = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in held.items()}
        return {name.removeprefix("model."): p.detach() for name, p in whole.items()}

    def save(self, path: Path) -> None:
        """Write weights and tokenizer to the directory `path`, in place of what is there; rank 0 writes.

        `transformers.AutoModelForCausalLM.from_pretrained(path)` loads it (a value model:
        AutoModelForTokenClassification). The directory appears whole or not at all. Collective when sharded.
        """
        weights = self.weights()
        if self.comm.rank == 0:
            _write(whole_module(self.scorer.model, weights), self.tokenizer, path)


def _shard(scorer: Scorer, comm: Comm, precision: str) -> None:
    """FSDP2: one group a layer, one for the rest. Gradients are summed: the loss is divided by global counts."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if precision == BF16 else None, reduce_dtype=torch.float32)
    layers = scorer.model._no_split_modules or ()
    parts = [m for m in scorer.model.modules() if type(m).__name__ in layers]
    for part in (*parts, scorer):
        fully_shard(part, mesh=comm.mesh(), mp_policy=policy)
    for part in (*parts, scorer):
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        # gloo has no pre-multiplied sum, which a divide factor would otherwise ask for.
        part.set_force_sum_reduction_for_comms(True)


def _to_bf16(scorer: Scorer) -> None:
    """Parameters only: buffers such as rotary frequencies lose their meaning in 8 bits."""
    for parameter in scorer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def whole_module(like: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """An unsharded model of the same architecture around `weights`, which it shares, and the buffers of `like`."""
    config: Any = type(like.config).from_dict(like.config.to_dict())
    with torch.device("meta"):
        made: PreTrainedModel = type(like)(config)
    made.load_state_dict(dict(weights), strict=False, assign=True)
    made.tie_weights()
    for name, buffer in like.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(owner), leaf, buffer)
    if like.can_generate():
        made.generation_config = like.generation_config
    left = [n for n, p in made.named_parameters() if p.is_meta]
    assert not left, f"no weights for {left}"
    return made


def _write(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        with sources.quiet():
            module.save_pretrained(made)
            tokenizer.save_pretrained(made)
        made.chmod(0o755)
        if path.exists():
            # A directory cannot be replaced in one rename; the old one steps aside first.
            path.rename(made / "replaced")
        made.rename(path)
        shutil.rmtree(path / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
