"""A Hugging Face model as the engine calls it: packs of rows in, log-probs, values or scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rldsl.backends.engines.heads import token_logprob
from rldsl.backends.engines.packing import Layout, MicroBatch
from rldsl.backends.engines.sources import POLICY
from rldsl.diagnostics import fail

ATTENTION = "rldsl_grouped"


class Head(NamedTuple):
    """Who speaks of states: the model's own head (None) or a further one.

    Log-probs have a temperature; so many `logits` of them are made at once, 0: as many as the engine likes.
    """

    number: int | None = None
    temperature: float = 1.0
    logits: int = 0


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,  # Hugging Face passes whatever a model's attention may know; none of it applies without dropout
) -> tuple[Tensor, None]:
    """Attention without a copy of a key for each of the query heads that share it.

    query [B, Hq, Q, D]; key, value [B, Hkv, K, D]; `attention_mask` additive, [B, 1, Q * Hq / Hkv, K] or, for Q = 1,
    [B, 1, 1, K]; without one each place sees all before it, Q = K. Returns [B, Q, Hq, D].
    """
    if attention_mask is None:
        return _causal(query, key, value, scaling), None
    # Query heads that share a key head are laid out as further queries: not every masked kernel knows of sharing.
    batch, heads, length, dim = query.shape
    shape = (batch, key.shape[1], heads // key.shape[1] * length, dim)
    out = scaled_dot_product_attention(query.reshape(shape), key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(batch, heads, length, dim).transpose(1, 2), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """By kernels that take memory in proportion to the length alone."""
    shared = query.shape[1] != key.shape[1]
    if shared and not _kernel_shares_keys(query):
        key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], 1) for t in (key, value))
        shared = False
    out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=shared)
    return out.transpose(1, 2)


def _kernel_shares_keys(query: Tensor) -> bool:
    """On a GPU only flash attention does, which has no float32; else the square of the length would be written out."""
    return not (query.is_cuda and query.dtype == torch.float32)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)


def _unsupported(config: dict[str, Any], model: Any, kind: str) -> str | None:
    """Why this architecture's results would be wrong here, if they would."""
    if kind != POLICY:
        # Encoders, which packs of causal rows would get wrong, name their heads otherwise.
        return None if isinstance(getattr(model, "score", None), nn.Linear) else "it has no linear head `score`"
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if config.get(name) not in (None, 1, 1.0):
            return f"its logits go through `{name}`"
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or getattr(head, "bias", None) is not None:
        return "its output layer is not a plain matrix"
    return None


class Scorer(nn.Module):
    """Log-probs (policy), values (value model) or scores (reward model) at chosen tokens.

    `heads` names further models on the same trunk: each has a linear head of one number, 0 at first as a new critic's.
    Never in training mode: dropout would make noise of ratios.
    """

    model: Any  # a PreTrainedModel, whose architecture's attributes no type checker knows

    def __init__(self, model: PreTrainedModel, *, kind: str, name: str, heads: Sequence[str] = ()) -> None:
        super().__init__()
        config = model.config.get_text_config().to_dict()
        why = _unsupported(config, model, kind)
        if why is not None:
            fail(
                "RL0607",
                f"model `{name}`: the engine cannot run `{type(model).__name__}`: {why}",
                expected="a decoder with a linear output layer, such as Llama, Qwen or Mistral",
            )
        queries = config["num_attention_heads"]
        self.queries_per_key = queries // (config.get("num_key_value_heads") or queries)
        self.max_positions: int = config.get("max_position_embeddings") or 1 << 30
        self.window = _window(config)
        self.name, self.kind = name, kind
        model.config._attn_implementation = ATTENTION
        self.model = model
        # A list, since modules may not have any name that a model may have.
        self.head_names = tuple(heads)
        self.heads = nn.ModuleList(_zero_head(config["hidden_size"]) for _ in heads)
        self.eval()

    def is_number_head(self, name: str) -> bool:
        """Whether the parameter `name` is of a head of one number, the model's own or a further one."""
        return name.startswith(("heads.", "model.score."))

    def beside(self, head: int | None) -> set[str]:
        """Names of the parameters in which `head` (None: the model's own) has no part: those of the other heads."""
        trunk = {id(p) for p in self.model.base_model.parameters()}
        own = {id(p) for p in (self.model if head is None else self.heads[head]).parameters()}
        return {name for name, p in self.named_parameters() if id(p) not in trunk | own}

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
        mask = None if layout.visible is None else self._mask(layout.visible)
        return self.body(layout.tokens, layout.positions, mask, cache)

    def _mask(self, visible: Tensor) -> Tensor:
        """[B, 1, T * Hq / Hkv, T], 0 where bool[B, T, T] is set and minus infinity elsewhere."""
        # FSDP casts as it gathers: inside its forward the parameters have the dtype of the computation.
        dtype = self.model.get_input_embeddings().weight.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
        return mask.repeat(1, self.queries_per_key, 1)[:, None]

    def body(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
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
        return nn.functional.linear(hidden, self.model.get_output_embeddings().weight)

    def forward(self, micro: MicroBatch, heads: Sequence[Head]) -> list[Tensor]:
        """For each head f32[pairs]: the log-prob of each pair's token, or the number that it gives the pair's state.

        The layers run once for all of them.
        """
        states = self.hidden(micro.layout).flatten(0, 1)[micro.states]
        return [self._said(head, states, micro) for head in heads]

    def _said(self, head: Head, states: Tensor, micro: MicroBatch) -> Tensor:
        if self.kind != POLICY or head.number is not None:
            numbers: Tensor = (self.model.score if head.number is None else self.heads[head.number])(states)
            return numbers.float()[micro.pair_state, 0]
        weight = self.model.get_output_embeddings().weight
        pairs = (micro.pair_state, micro.pair_token)
        return token_logprob(states, weight, *pairs, head.temperature, at_once=head.logits)


def _zero_head(hidden: int) -> nn.Linear:
    made = nn.Linear(hidden, 1)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def _window(config: dict[str, Any]) -> int:
    """Tokens a layer looks back at; packs know nothing of windows, so longer rows are refused."""
    kinds = config.get("layer_types")
    slides = "sliding_attention" in kinds if kinds else config.get("use_sliding_window", True)
    window = config.get("sliding_window")
    return int(window) if slides and window else 1 << 30
