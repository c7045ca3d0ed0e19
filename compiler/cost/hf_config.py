"""A Hugging Face `config.json` read into facts of the model: of known architectures, without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rldsl.compiler.cost.json_text import key_place
from rldsl.compiler.cost.model_facts import Head, ModelFacts, SiglipFacts, VisionFacts
from rldsl.diagnostics import Diagnostics, Span, did_you_mean, fail

SLIDING = "sliding_attention"
UNLIMITED = 1 << 30
"""Stands for the longest sequence where a config names none."""
_STRETCHED = ("linear", "dynamic", "yarn")
_AUTHORS = "take config.json as the model's authors published it"


def read_config(config: Mapping[str, Any] | Path, *, head: Head = Head.LM) -> ModelFacts:
    """The facts of the model that a config describes, with `head` on its trunk; a value or score head is never tied.

    RL0801 for an architecture that is not known here, RL0802 for each key that is missing or has no sensible value.
    """
    text = _Text.read(config) if isinstance(config, Path) else None
    values = text.values if text else config
    assert isinstance(values, Mapping)
    kind, where = values.get("model_type"), text.file if text else "config.json"
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        fail(
            "RL0801",
            f"nothing is known of the size of a model of type `{kind}` (key `model_type` of {where})",
            span=text.span("model_type") if text else None,
            expected=", ".join(FAMILIES),
            fix=did_you_mean(str(kind), FAMILIES),
        )
    found = Diagnostics()
    facts = family(_Keys(values, text, found), head)
    found.raise_if_errors()
    return facts


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A config.json: where it is, its text, the object that it holds."""

    file: str
    text: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Text:
        """RL0802 for a file that holds no JSON object, at the place of the first mistake."""
        what = f"{path} cannot be read as a model's configuration"
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text)
        except json.JSONDecodeError as error:
            span = Span(str(path), error.lineno, error.colno, error.lineno, error.colno + 1)
            fail("RL0802", what, span=span, expected="a JSON object", found=error.msg, fix=_AUTHORS)
        except (OSError, ValueError, RecursionError) as error:
            fail("RL0802", what, expected="a JSON object", found=str(error), fix=_AUTHORS)
        if not isinstance(values, dict):
            found = f"JSON, but no object: {text[:40]}"
            fail(
                "RL0802", what, span=Span.whole_line(str(path), 1), expected="a JSON object", found=found, fix=_AUTHORS
            )
        return cls(file=str(path), text=text, values=values)

    def span(self, *keys: str) -> Span:
        """Of a key, by way of those of the objects around it; of one that is not there the innermost of these."""
        for count in range(len(keys), 0, -1):
            if (place := key_place(self.text, keys[:count])) is not None:
                line, column, end = place
                return Span(self.file, line, column, line, end)
        return Span.whole_line(self.file, 1)


class _Keys:
    """The keys of a config. One that is missing or makes no sense is noted, and 1 or False stands in for it."""

    def __init__(
        self, values: Mapping[str, Any], text: _Text | None, found: Diagnostics, around: tuple[str, ...] = ()
    ) -> None:
        self.values, self.text, self.found, self.around = values, text, found, around

    def __getitem__(self, key: str) -> int:
        """A positive integer that must be there."""
        return self._positive(key, None)

    def get(self, key: str, default: int) -> int:
        """A positive integer; `default` where the key is missing or null."""
        return self._positive(key, default)

    def maybe(self, key: str) -> int | None:
        """A positive integer, None where the key is missing or null."""
        return None if self.values.get(key) is None else self._positive(key, None)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; `default` where the key is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self._wrong(key, "true or false")
            return default
        return default if value is None else value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers, empty where the key is missing or null."""
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, int) for v in value):
            self._wrong(key, "a list of integers")
            return ()
        return tuple(value)

    def words(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, None where the key is missing or null."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, list) or not all(isinstance(v, str) for v in value)):
            self._wrong(key, "a list of strings")
            return None
        return None if value is None else tuple(value)

    def under(self, key: str) -> _Keys:
        """The keys of an object within, which must be there; where it is not, that is all that is noted."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            self._wrong(key, "an object")
            return _Keys({}, self.text, Diagnostics())
        return _Keys(value, self.text, self.found, (*self.around, key))

    def _positive(self, key: str, default: int | None) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self._wrong(key, "a positive integer")
        return 1

    def _wrong(self, key: str, expected: str) -> None:
        value, name = self.values.get(key), f"`{'.'.join((*self.around, key))}`"
        where = self.text.file if self.text else "config.json"
        if value is not None:
            message, found, near = f"{name} of {where} makes no sense", json.dumps(value), None
        else:
            message, found, near = f"{where} has no key {name}", None, did_you_mean(key, self.values)
        self.found.error(
            "RL0802",
            message,
            span=self.text.span(*self.around, key) if self.text else None,
            expected=expected,
            found=found,
            fix=near or _AUTHORS,
        )


_Family = Callable[[_Keys, Head], ModelFacts]


def _decoder(keys: _Keys, head: Head, **own: Any) -> ModelFacts:
    """What all families read alike; `own` replaces fields of the facts."""
    hidden, heads = keys["hidden_size"], keys["num_attention_heads"]
    facts: dict[str, Any] = {
        "model_type": str(keys.values.get("model_type")),
        "layers": keys["num_hidden_layers"],
        "hidden": hidden,
        "heads": heads,
        "kv_heads": keys.get("num_key_value_heads", heads),
        "head_dim": keys.get("head_dim", max(1, hidden // heads)),
        "vocab": keys["vocab_size"],
        "tied": keys.flag("tie_word_embeddings") and head is Head.LM,
        "max_positions": _positions(keys),
        "head": head,
    }
    if "intermediate" not in own:
        facts["intermediate"] = keys["intermediate_size"]
    return ModelFacts(**{**facts, **own})


def _positions(keys: _Keys) -> int:
    """The longest sequence; where rotations are scaled by a factor that `max_position_embeddings` leaves out, with it.

    That is so of these kinds (of the others it is counted in), from the length before, if that is said: as vLLM has it.
    """
    most = keys.get("max_position_embeddings", UNLIMITED)
    scaling = keys.values.get("rope_scaling") or keys.values.get("rope_parameters")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) not in _STRETCHED:
        return most
    factor, before = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isfinite(factor):
        return most
    return max(most, int(factor * (before if isinstance(before, int) else most)))


def _llama(keys: _Keys, head: Head) -> ModelFacts:
    bias = keys.flag("attention_bias")
    return _decoder(keys, head, qkv_bias=bias, output_bias=bias, mlp_bias=keys.flag("mlp_bias"))


def _mistral(keys: _Keys, head: Head) -> ModelFacts:
    """All layers have the window, where there is one."""
    return _decoder(keys, head, kv_heads=keys["num_key_value_heads"], **_windows(keys, lambda _: True))


def _mixtral(keys: _Keys, head: Head) -> ModelFacts:
    return _decoder(
        keys,
        head,
        kv_heads=keys["num_key_value_heads"],
        intermediate=0,
        experts=keys["num_local_experts"],
        experts_per_token=keys["num_experts_per_tok"],
        expert_intermediate=keys["intermediate_size"],
        moe_layers=keys["num_hidden_layers"],
        **_windows(keys, lambda _: True),
    )


def _qwen2(keys: _Keys, head: Head) -> ModelFacts:
    return _decoder(keys, head, kv_heads=keys["num_key_value_heads"], qkv_bias=True, **_qwen_windows(keys))


def _qwen3(keys: _Keys, head: Head) -> ModelFacts:
    return _decoder(keys, head, **_qwen3_attention(keys), **_qwen_windows(keys))


def _qwen3_attention(keys: _Keys) -> dict[str, Any]:
    bias = keys.flag("attention_bias")
    return {
        "kv_heads": keys["num_key_value_heads"],
        "head_dim": keys["head_dim"],
        "qk_norm": True,
        "qkv_bias": bias,
        "output_bias": bias,
    }


def _qwen2_moe(keys: _Keys, head: Head) -> ModelFacts:
    return _decoder(
        keys,
        head,
        kv_heads=keys["num_key_value_heads"],
        qkv_bias=keys.flag("qkv_bias", True),
        shared_intermediate=keys["shared_expert_intermediate_size"],
        **_qwen_experts(keys),
        **_qwen_windows(keys),
    )


def _qwen3_moe(keys: _Keys, head: Head) -> ModelFacts:
    windows = _windows(keys, lambda _: keys.flag("use_sliding_window"))
    return _decoder(keys, head, **_qwen3_attention(keys), **_qwen_experts(keys), **windows)


def _qwen_experts(keys: _Keys) -> dict[str, Any]:
    """Every `decoder_sparse_step`-th layer has experts, but not those in `mlp_only_layers`."""
    step, dense = keys.get("decoder_sparse_step", 1), set(keys.integers("mlp_only_layers"))
    sparse = [i for i in range(keys["num_hidden_layers"]) if (i + 1) % step == 0 and i not in dense]
    # transformers has read either name at one time or another.
    count = "num_experts" if "num_experts" in keys.values else "num_local_experts"
    return {
        "experts": keys[count if count in keys.values else "num_experts"],
        "experts_per_token": keys["num_experts_per_tok"],
        "expert_intermediate": keys["moe_intermediate_size"],
        "moe_layers": len(sparse),
    }


def _gemma(keys: _Keys, head: Head) -> ModelFacts:
    return _decoder(keys, head, **_gemma_attention(keys, head))


def _gemma2(keys: _Keys, head: Head) -> ModelFacts:
    """Every second layer has the window, from the first on."""
    windows = _windows(keys, lambda i: i % 2 == 0)
    return _decoder(keys, head, norms=4, **_gemma_attention(keys, head), **windows)


def _gemma3(keys: _Keys, head: Head, **own: Any) -> ModelFacts:
    """All layers have the window but every sixth, or what the config says; positions have the scaling counted in."""
    pattern = keys.get("sliding_window_pattern", 6)
    windows = _windows(keys, lambda i: (i + 1) % pattern != 0)
    positions = keys.get("max_position_embeddings", UNLIMITED)
    own = {**_gemma_attention(keys, head), "max_positions": positions, **own}
    return _decoder(keys, head, norms=4, qk_norm=True, **own, **windows)


def _gemma3_vision(keys: _Keys, head: Head) -> ModelFacts:
    """The text model's keys stand in `text_config`, without those that have transformers' own values."""
    text, vision = keys.under("text_config"), keys.under("vision_config")
    text.values = {**_GEMMA3_TEXT, **text.values}
    tower = SiglipFacts(
        layers=vision["num_hidden_layers"],
        hidden=vision["hidden_size"],
        intermediate=vision["intermediate_size"],
        patch_inputs=vision.get("num_channels", 3) * vision["patch_size"] ** 2,
        positions=(vision["image_size"] // vision["patch_size"]) ** 2,
        outputs=text["hidden_size"],
        pooled=vision.flag("vision_use_head", True),
    )
    return _gemma3(text, head, vision=tower, model_type=str(keys.values.get("model_type")))


_GEMMA3_TEXT = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
"""Of transformers' Gemma3TextConfig; the published configurations name only what differs from it."""


def _gemma_attention(keys: _Keys, head: Head) -> dict[str, Any]:
    """Gemma's output matrix is its embedding unless the config says otherwise."""
    bias = keys.flag("attention_bias")
    return {
        "kv_heads": keys["num_key_value_heads"],
        "head_dim": keys["head_dim"],
        "qkv_bias": bias,
        "output_bias": bias,
        "tied": keys.flag("tie_word_embeddings", True) and head is Head.LM,
    }


def _qwen_windows(keys: _Keys) -> dict[str, Any]:
    """Off unless `use_sliding_window`; then for the layers from `max_window_layers` on."""
    if not keys.flag("use_sliding_window"):
        return {}
    first = keys["max_window_layers"]
    return _windows(keys, lambda i: i >= first)


def _windows(keys: _Keys, slides: Callable[[int], bool]) -> dict[str, Any]:
    """The window and how many layers have it: by `layer_types` where the config lists them, else by `slides`."""
    window, types = keys.maybe("sliding_window"), keys.words("layer_types")
    layers = range(keys["num_hidden_layers"])
    count = types.count(SLIDING) if types is not None else sum(map(slides, layers))
    return {"window": window, "window_layers": count} if window is not None and count else {}


def _qwen_vl(keys: _Keys, head: Head, tower: VisionFacts) -> ModelFacts:
    """The text model's keys stand in `text_config`, or as older transformers wrote them, beside `vision_config`."""
    text = keys.under("text_config") if "text_config" in keys.values else keys
    tied = keys.flag("tie_word_embeddings") or text.flag("tie_word_embeddings")
    own = {"tied": tied and head is Head.LM, "vision": tower, "model_type": str(keys.values.get("model_type"))}
    return _decoder(text, head, kv_heads=text["num_key_value_heads"], qkv_bias=True, **own, **_qwen_windows(text))


def _qwen2_vl(keys: _Keys, head: Head) -> ModelFacts:
    """Here `hidden_size` of the tower is the language model's width."""
    vision = keys.under("vision_config")
    width = vision["embed_dim"]
    intermediate = width * vision.get("mlp_ratio", 4)
    tower = _tower(vision, hidden=width, intermediate=intermediate, outputs=vision["hidden_size"], gated=False)
    return _qwen_vl(keys, head, tower)


def _qwen2_5_vl(keys: _Keys, head: Head) -> ModelFacts:
    vision = keys.under("vision_config")
    intermediate, outputs = vision["intermediate_size"], vision["out_hidden_size"]
    tower = _tower(vision, hidden=vision["hidden_size"], intermediate=intermediate, outputs=outputs, gated=True)
    return _qwen_vl(keys, head, tower)


def _tower(vision: _Keys, *, hidden: int, intermediate: int, outputs: int, gated: bool) -> VisionFacts:
    channels = vision.get("in_channels", vision.get("in_chans", 3))
    patch = vision.get("patch_size", 14)
    return VisionFacts(
        layers=vision["depth"],
        hidden=hidden,
        heads=vision["num_heads"],
        intermediate=intermediate,
        patch_inputs=channels * vision.get("temporal_patch_size", 2) * patch**2,
        merge=vision.get("spatial_merge_size", 2),
        outputs=outputs,
        gated=gated,
        norm_bias=not gated,
    )


FAMILIES: dict[str, _Family] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gemma3": _gemma3_vision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
}
"""What reads a config, by its `model_type`; Qwen2.5 calls itself `qwen2`."""
