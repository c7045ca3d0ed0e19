"""A Hugging Face model as the engine calls it: packs of rows in, log-probs or values of response tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rldsl.backends.engines.heads import token_logprob
from rldsl.backends.engines.packing import Layout, MicroBatch
from rldsl.backends.engines.sources import VALUE
from rldsl.diagnostics import fail

ATTENTION = "rldsl_grouped"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,  # Hugging Face passes whatever a model's attention may know; none of it applies without dropout
) -> tuple[Tensor, None]:
    """Attention whose query heads that share a key head are laid out as further queries, so that no key is copied.

    query [B, Hq, Q, D]; key, value [B, Hkv, K, D]; `attention_mask` additive, [B, 1, Q * Hq / Hkv, K] or, for Q = 1,
    [B, 1, 1, K]. Returns [B, Q, Hq, D].
    """
    batch, heads, length, dim = query.shape
    shape = (batch, key.shape[1], heads // key.shape[1] * length, dim)
    out = scaled_dot_product_attention(query.reshape(shape), key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(batch, heads, length, dim).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)


def _head(model: Any) -> Any:
    """The output embedding, None in a value model."""
    return model.get_output_embeddings()


def _unsupported(config: dict[str, Any], model: PreTrainedModel) -> str | None:
    """Why this architecture's logits would be wrong here, if they would."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if config.get(name) not in (None, 1, 1.0):
            return f"its logits go through `{name}`"
    head = _head(model)
    if head is not None and (not isinstance(head, nn.Linear) or head.bias is not None):
        return "its output layer is not a plain matrix"
    return None


class Scorer(nn.Module):
    """Log-probs (policy) or values (value model) of response tokens.

    Never in training mode: dropout would make noise of ratios.
    """

    model: Any  # a PreTrainedModel, whose architecture's attributes no type checker knows

    def __init__(self, model: PreTrainedModel, *, kind: str, name: str) -> None:
        super().__init__()
        config = model.config.get_text_config().to_dict()
        why = _unsupported(config, model)
        if why is not None:
            fail(
                "RL0607",
                f"model `{name}`: the engine cannot run `{type(model).__name__}`: {why}",
                expected="a decoder with a linear output layer, such as Llama, Qwen or Mistral",
            )
        heads = config["num_attention_heads"]
        self.queries_per_key = heads // (config.get("num_key_value_heads") or heads)
        self.max_positions: int = config.get("max_position_embeddings") or 1 << 30
        self.window = _window(config)
        self.name, self.kind = name, kind
        model.config._attn_implementation = ATTENTION
        self.model = model
        self.eval()

    def check_length(self, longest: int) -> None:
        """RL0608 when rows of `longest` tokens do not fit the model's positions or its attention window."""
        limit = min(self.max_positions, self.window)
        if longest > limit:
            fail(
                "RL0608",
                f"model `{self.name}`: rows of {longest} tokens are longer than its {limit} positions",
                fix="lower max_new_tokens, or drop long prompts",
            )

    def hidden(self, layout: Layout, cache: Cache | None = None) -> Tensor:
        """Last hidden states [B, T, H] of packs."""
        # FSDP casts as it gathers: inside its forward the parameters have the dtype of the computation.
        dtype = self.model.get_input_embeddings().weight.dtype
        mask = torch.zeros(layout.visible.shape, dtype=dtype, device=layout.visible.device)
        mask.masked_fill_(~layout.visible, -torch.inf)
        return self.body(layout.tokens, layout.positions, mask.repeat(1, self.queries_per_key, 1)[:, None], cache)

    def body(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """Last hidden states [B, T, H]; `mask` as `_attention` takes it."""
        out = self.model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] in the dtype of the computation."""
        return nn.functional.linear(hidden, _head(self.model).weight)

    def forward(self, micro: MicroBatch, temperature: float) -> Tensor:
        """f32[pairs]: the log-prob of each pair's token at `temperature`, or the value of its state."""
        states = self.hidden(micro.layout).flatten(0, 1)[micro.states]
        if self.kind == VALUE:
            values: Tensor = self.model.score(states)
            return values.float()[micro.pair_state, 0]
        weight = _head(self.model).weight
        return token_logprob(states, weight, micro.pair_state, micro.pair_token, temperature)


def _window(config: dict[str, Any]) -> int:
    """Tokens a layer looks back at; packs know nothing of windows, so longer rows are refused."""
    kinds = config.get("layer_types")
    slides = "sliding_attention" in kinds if kinds else config.get("use_sliding_window", True)
    window = config.get("sliding_window")
    return int(window) if slides and window else 1 << 30
