"""Tiny scratch models and batches for them; references are plain Hugging Face forwards, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.ops import Arg, TrainOp
from rldsl.compiler.plan import ModelSpec

SCRATCH = ModelSpec(
    name="actor",
    kind="policy",
    source="scratch",
    source_args={"alphabet": "0123456789=+ ", "hidden": 32, "layers": 2, "heads": 2, "seed": 3},
)
CRITIC = ModelSpec(name="critic", kind="value", source="scratch", source_args=SCRATCH.source_args, copy_of="actor")


def changed(spec: ModelSpec, **changes: object) -> ModelSpec:
    return ModelSpec(**{f: getattr(spec, f) for f in spec.__struct_fields__} | changes)


def load(spec: ModelSpec = SCRATCH, **changes: object) -> Model:
    return Model.load(changed(spec, **changes), comm=Comm.alone(), seed=0)


@dataclass(frozen=True)
class Rows:
    """Random rows, several to a prompt, some sharing the beginning of their response, one twice the same."""

    tokens: Ragged
    response_mask: Ragged
    prompt_index: Tensor

    @classmethod
    def make(cls, prompts: int = 4, n: int = 3, seed: int = 0, vocab: int = 17) -> Rows:
        g = torch.Generator().manual_seed(seed)

        def ids(low: int, high: int) -> Tensor:
            return torch.randint(0, vocab, (int(torch.randint(low, high, (1,), generator=g)),), generator=g)

        common, tokens, masks = ids(3, 4), [], []
        for _ in range(prompts):
            prompt, start = torch.cat((common, ids(1, 5))), ids(1, 4)
            for k in range(n):
                response = torch.cat((start, ids(1, 6))) if k % 2 == 0 else ids(1, 7)
                tokens.append(torch.cat((prompt, response)))
                masks.append(torch.arange(len(tokens[-1])) >= len(prompt))
        tokens[n - 1], masks[n - 1] = tokens[0], masks[0]
        return cls(Ragged.of(tokens), Ragged.of(masks), torch.arange(prompts).repeat_interleave(n))

    def __len__(self) -> int:
        return len(self.tokens)

    def per_token(self, seed: int = 1, scale: float = 1.0) -> Ragged:
        g = torch.Generator().manual_seed(seed)
        values = torch.randn(len(self.tokens.values), generator=g) * scale
        return Ragged(values * self.response_mask.values, self.tokens.lengths)

    def batch(self, **args: Tensor | Ragged | list[str] | None) -> TrainBatch:
        return TrainBatch(
            tokens=self.tokens,
            response_mask=self.response_mask,
            args=args,
            prompt_index=self.prompt_index,
            num_prompts=int(self.prompt_index.max()) + 1,
        )


def quiet(rows: Rows, silent: list[int]) -> Ragged:
    """The response mask, with no response at all in the rows `silent`."""
    masks = [m & (i not in silent) for i, m in enumerate(rows.response_mask.rows())]
    return Ragged.of(masks)


def reference_logp(model: Model, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-prob of each token but the first of one row, by Hugging Face's own forward."""
    module = model.scorer.model
    attention = module.config._attn_implementation
    module.config._attn_implementation = "eager"
    logits = module(input_ids=tokens[None]).logits[0, :-1].float() / temperature
    module.config._attn_implementation = attention
    return logits.log_softmax(-1).gather(-1, tokens[1:, None])[:, 0]


def reference_value(model: Model, tokens: Tensor) -> Tensor:
    """The value before each token but the first of one row."""
    module = model.scorer.model
    attention = module.config._attn_implementation
    module.config._attn_implementation = "eager"
    values = module(input_ids=tokens[None]).logits[0, :-1, 0]
    module.config._attn_implementation = attention
    return values


def reference_rows(rows: Rows, one_row: Callable[[Tensor], Tensor]) -> Ragged:
    """`one_row` of each row, aligned with tokens, 0 outside the response."""
    made = [
        torch.nn.functional.pad(one_row(tokens), (1, 0)) * mask
        for tokens, mask in zip(rows.tokens.rows(), rows.response_mask.rows(), strict=True)
    ]
    return Ragged.of(made)


def train_op(**changes: object) -> TrainOp:
    fields: dict[str, object] = {
        "id": "update",
        "model": "actor",
        "tokens": "tokens",
        "response_mask": "response_mask",
        "loss": "policy_loss",
        "args": (Arg(param="old_logp", field="old_logp"), Arg(param="advantages", field="advantages")),
        "params": {"clip": 0.2},
        "lr": 1e-3,
        "batch": 4,
        "minibatch": 4,
    }
    return TrainOp(**{**fields, **changes})


def weights(model: Model) -> dict[str, Tensor]:
    return {name: w.clone() for name, w in model.weights().items()}


def perturb(model: Model, seed: int = 5, scale: float = 0.1) -> Model:
    """Larger random weights, so that distributions are far from uniform and gradients from 0."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.scorer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=scale)
    return model
