"""The configurations that the memory model is compared on, and its estimate of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rldsl.compiler.cost.activations import Attention, Logits, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import models_folder
from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.memory import ENGINE_CHUNK, Scoring, Training
from rldsl.compiler.cost.memory_generation import Generating, handing_over
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Footprint
from rldsl.compiler.cost.packing import CPU_PLACES, largest_micro_batch
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.ops import GenerateOp, Recompute

# Public models beside those in `examples/models`, by the figures of their config.json.
OTHERS: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
    },
}
# Small enough for tests.
_TINY = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192}
OTHERS["tiny"] = {**OTHERS["Qwen2.5-0.5B"], **_TINY, "intermediate_size": 1024, "num_hidden_layers": 3}
OTHERS["tiny-moe"] = {
    **OTHERS["tiny"],
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave of generation: `prompts` of `prompt` tokens, `samples` of `new_tokens` each."""

    prompts: int
    prompt: int
    samples: int
    new_tokens: int
    top_p: float = 1.0

    @property
    def op(self) -> GenerateOp:
        """What samples it."""
        return GenerateOp(
            id="g",
            model="m",
            prompts="p",
            n=self.samples,
            max_new_tokens=self.new_tokens,
            temperature=1.0,
            top_p=self.top_p,
            outputs={},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A micro-batch of `packs` x `length` places, of which `states` are before response tokens.

    `masked`: packs of several rows, which see by a mask; otherwise single rows, causal without one.
    """

    model: str
    phase: str = "train"
    axes: Axes = Axes()  # noqa: RUF009
    precision: str = "bf16"
    packs: int = 1
    length: int = 1024
    rows_per_pack: int = 1
    states: int = 512
    masked: bool = True
    recompute: str = "none"
    logits: str = "chunked"
    kept_logits: int = ENGINE_CHUNK
    lora_rank: int = 0
    stage: int = 0
    zero: int = 3
    wave: Wave | None = None

    @property
    def kind(self) -> str:
        """What it is judged with."""
        return "generation" if self.phase in ("generate", "sync") else "training"

    @property
    def name(self) -> str:
        """What differs from the usual."""
        axes = [f"{k}{v}" for k, v in zip(("dp", "tp", "pp", "cp", "ep"), _sizes(self.axes), strict=True) if v > 1]
        parts = [self.model, self.phase, self.precision, *axes]
        if self.phase == "sync":
            parts += [f"lora {self.lora_rank}"] if self.lora_rank else []
        elif self.wave is not None:
            w = self.wave
            parts.append(f"{w.prompts}x{w.samples} of {w.prompt}+{w.new_tokens}" + (" top_p" if w.top_p < 1 else ""))
        else:
            parts.append(f"{self.packs}x{self.length}/{self.states}")
            parts += [self.logits] if self.logits != "chunked" else []
            parts += ["masked"] if self.masked else []
            parts += [f"recompute {self.recompute}"] if self.recompute != "none" else []
            parts += [f"lora {self.lora_rank}"] if self.lora_rank else []
            parts += [f"stage {self.stage}"] if self.axes.pp > 1 else []
            parts += [f"zero {self.zero}"] if self.zero != 3 else []
        return " ".join(parts)


def _sizes(axes: Axes) -> tuple[int, ...]:
    return axes.dp, axes.tp, axes.pp, axes.cp, axes.ep


def config_of(model: str) -> dict[str, Any]:
    """The `config.json` of a public model."""
    if model in OTHERS:
        return dict(OTHERS[model])
    made: dict[str, Any] = json.loads((models_folder() / f"{model}.json").read_text())
    return made


def estimate(case: Case) -> Footprint:
    """What the memory model says of it."""
    lora = Lora(rank=case.lora_rank) if case.lora_rank else None
    shard = Shard(facts=read_config(config_of(case.model)), axes=case.axes, stage=case.stage, lora=lora)
    states = States(
        shard=shard, width=2 if case.precision == "bf16" else 4, trained=case.phase in ("train", "sync"), zero=case.zero
    )
    if case.wave is not None:
        return generating(case.wave, states)
    if case.phase == "sync":
        return handing_over(states)
    settings: dict[str, Any] = {
        "states": states,
        "micro": MicroBatch(packs=case.packs, length=case.length, states=case.states, cells=case.packs * case.length),
        "attention": Attention.MASKED if case.masked else Attention.CAUSAL,
        "logits": Logits(case.logits),
        "chunk": case.kept_logits,
    }
    if case.phase == "train":
        return Training(**settings, recompute=Recompute(case.recompute)).footprint
    return Scoring(**settings).footprint


def generating(wave: Wave, states: States) -> Footprint:
    """One wave of our engine on a CPU."""
    return Generating(
        states=states,
        prompts=wave.prompts,
        prompt=wave.prompt,
        samples=wave.samples,
        new_tokens=wave.new_tokens,
        prefill=largest_micro_batch(places=4 * CPU_PLACES, prompt=wave.prompt, response=1, rows=wave.prompts),
        top_p=wave.top_p < 1,
    ).footprint


def _train(model: str, packs: int, length: int, states: int, axes: Axes, **others: Any) -> Case:
    """As our engine has them: long rows without a mask, short ones in packs of at most 512 places with one."""
    return Case(
        model=model,
        packs=packs,
        length=length,
        states=states,
        axes=axes,
        masked=length <= 512,
        rows_per_pack=4 if length == 512 else 1,
        **others,
    )


def _infer(model: str, packs: int, length: int, states: int, axes: Axes, **others: Any) -> Case:
    return _train(model, packs, length, states, axes, phase="infer", **others)


def _wave(model: str, prompts: int, prompt: int, samples: int, new_tokens: int, **others: Any) -> Case:
    wave = Wave(prompts=prompts, prompt=prompt, samples=samples, new_tokens=new_tokens, top_p=others.pop("top_p", 1.0))
    return Case(model=model, phase="generate", wave=wave, **others)


_SMALL, _HALF, _ONE, _SEVEN = "SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-7B"
_EIGHT, _LLAMA, _LARGE, _LARGEST = "Qwen3-8B", "Llama-3.1-8B", "Qwen2.5-32B", "Qwen2.5-72B"
_MOE, _MIXTRAL = "Qwen3-30B-A3B", "Mixtral-8x7B"

# What the formulas were derived with, by looking at what was alive at the peak. These do not count.
DERIVED_WITH: tuple[Case, ...] = (
    _train(_SEVEN, 4, 512, 1024, Axes(dp=8)),
    _train(_SEVEN, 4, 512, 1024, Axes()),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=8)),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=8), recompute="full"),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=8), recompute="selective"),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=8), logits="whole"),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=2, cp=4)),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=2, pp=4)),
    _train(_SEVEN, 1, 4096, 2048, Axes(dp=2), lora_rank=16),
    _train(_MOE, 1, 4096, 2048, Axes(dp=8)),
    _train(_SMALL, 4, 512, 1024, Axes(dp=64)),
    _infer(_SEVEN, 8, 512, 2048, Axes(dp=8)),
    _wave(_SEVEN, 32, 256, 8, 256),
    _wave(_SEVEN, 2, 4096, 2, 256),
    _wave(_SEVEN, 32, 256, 8, 256, top_p=0.9),
)

CASES: tuple[Case, ...] = (
    # As our engine trains: packs with a mask, logits in pieces.
    _train(_SMALL, 8, 512, 2048, Axes()),
    _train(_SMALL, 2, 512, 512, Axes(), precision="fp32"),
    _train(_SMALL, 2, 1024, 512, Axes(dp=2), precision="fp32"),
    _train(_HALF, 4, 512, 1024, Axes()),
    _train(_HALF, 8, 512, 3072, Axes(dp=16)),
    _train(_ONE, 4, 512, 1536, Axes(dp=4)),
    _train(_ONE, 2, 1024, 1024, Axes(dp=2), precision="fp32"),
    _train(_SEVEN, 32, 512, 8192, Axes(dp=32)),
    _train(_SEVEN, 1, 8192, 4096, Axes(dp=16)),
    _train(_LLAMA, 2, 2048, 2048, Axes(dp=64)),
    _train(_LARGE, 8, 512, 2048, Axes(dp=64)),
    _train(_LARGEST, 4, 512, 1024, Axes(dp=256)),
    # Long rows, recomputation, logits otherwise.
    _train(_SEVEN, 1, 16384, 8192, Axes(dp=1024)),
    _train(_SEVEN, 1, 32768, 4096, Axes(dp=16), recompute="full"),
    _train(_SEVEN, 1, 65536, 8192, Axes(dp=64), recompute="full"),
    _train(_EIGHT, 2, 2048, 2048, Axes(dp=8), recompute="selective"),
    _train(_EIGHT, 4, 4096, 8192, Axes(dp=128), recompute="full"),
    _train(_LARGE, 4, 1024, 2048, Axes(dp=32), recompute="selective"),
    _train(_LARGE, 1, 16384, 8192, Axes(dp=128), recompute="full"),
    _train(_LARGEST, 1, 8192, 4096, Axes(dp=1024), recompute="full"),
    _train(_LARGE, 1, 1024, 512, Axes(dp=8)),
    _train(_LLAMA, 1, 2048, 1024, Axes(dp=8), logits="whole"),
    _train(_HALF, 2, 1024, 1024, Axes(dp=4), logits="whole"),
    _train(_ONE, 1, 4096, 2048, Axes(dp=8), logits="positions", kept_logits=1 << 40),
    _train(_SEVEN, 2, 2048, 1024, Axes(dp=4), logits="positions", kept_logits=1 << 40),
    # Adapters.
    _train(_ONE, 4, 512, 1024, Axes(), lora_rank=8),
    _train(_SEVEN, 4, 512, 1024, Axes(dp=8), lora_rank=64),
    _train(_LARGE, 1, 8192, 4096, Axes(dp=8), lora_rank=16, recompute="full"),
    _train(_MOE, 1, 4096, 1024, Axes(dp=8), lora_rank=32, recompute="full"),
    # tp with sequence parallelism, pp, cp, ep, ZeRO-2.
    _train(_SEVEN, 1, 8192, 4096, Axes(dp=4, tp=2)),
    _train(_LLAMA, 1, 16384, 8192, Axes(dp=8, tp=8), recompute="full"),
    _train(_EIGHT, 4, 2048, 4096, Axes(dp=4, tp=4), recompute="selective"),
    _train(_LARGE, 2, 4096, 4096, Axes(dp=8, tp=4)),
    _train(_LARGEST, 1, 16384, 8192, Axes(dp=16, tp=8), recompute="full"),
    _train(_LLAMA, 1, 4096, 2048, Axes(dp=8, pp=2)),
    _train(_LLAMA, 1, 4096, 2048, Axes(dp=8, pp=2), stage=1),
    _train(_LARGEST, 1, 8192, 4096, Axes(dp=8, tp=4, pp=4), recompute="full"),
    _train(_LARGEST, 1, 8192, 4096, Axes(dp=8, tp=4, pp=4), recompute="full", stage=3),
    _train(_LLAMA, 1, 16384, 8192, Axes(dp=4, cp=2)),
    _train(_LARGEST, 1, 65536, 16384, Axes(dp=16, tp=4, pp=4, cp=4), recompute="full", stage=3),
    _train(_MOE, 2, 2048, 2048, Axes(dp=32)),
    _train(_MOE, 4, 512, 1024, Axes(dp=64)),
    _train(_MOE, 1, 16384, 8192, Axes(dp=128), recompute="full"),
    _train(_MOE, 1, 8192, 4096, Axes(dp=16, ep=4)),
    _train(_MOE, 2, 4096, 4096, Axes(dp=32, ep=8), recompute="full"),
    _train(_MIXTRAL, 1, 4096, 2048, Axes(dp=64)),
    _train(_MIXTRAL, 1, 2048, 2048, Axes(dp=32, ep=4)),
    _train(_ONE, 2, 2048, 2048, Axes(dp=8), zero=2),
    # Scoring.
    _infer(_SMALL, 16, 512, 4096, Axes()),
    _infer(_ONE, 8, 512, 2048, Axes(dp=4), precision="fp32"),
    _infer(_SEVEN, 128, 512, 32768, Axes(dp=16)),
    _infer(_LARGE, 4, 8192, 16384, Axes(dp=64)),
    _infer(_LARGEST, 1, 65536, 16384, Axes(dp=256)),
    _infer(_MOE, 16, 2048, 16384, Axes(dp=32)),
    _infer(_LLAMA, 2, 8192, 8192, Axes(dp=4, tp=4)),
    # Generation.
    _wave(_SMALL, 16, 64, 8, 128),
    _wave(_SMALL, 4, 32, 8, 64, precision="fp32"),
    _wave(_HALF, 64, 128, 8, 512),
    _wave(_ONE, 8, 512, 8, 1024),
    _wave(_ONE, 32, 100, 4, 300, precision="fp32"),
    _wave(_SEVEN, 16, 256, 16, 1024),
    _wave(_SEVEN, 4, 8192, 4, 1024),
    _wave(_EIGHT, 8, 1024, 8, 4096, top_p=0.95),
    _wave(_LLAMA, 4, 1024, 8, 8192),
    _wave(_LARGE, 2, 1024, 8, 1024),
    _wave(_LARGEST, 1, 2048, 8, 2048),
    _wave(_LARGEST, 1, 32768, 2, 1024, top_p=0.9),
    _wave(_MOE, 8, 512, 8, 512),
    _wave(_MOE, 64, 256, 16, 256),
    _wave(_MIXTRAL, 4, 2048, 8, 2048),
    # Weights to the sampler, while it still has those of the step before.
    Case(model=_ONE, phase="sync", axes=Axes(dp=4), precision="fp32"),
    Case(model=_SEVEN, phase="sync", axes=Axes(dp=8)),
    Case(model=_LARGE, phase="sync", axes=Axes(dp=32)),
    Case(model=_LLAMA, phase="sync", axes=Axes(dp=8), lora_rank=16),
    Case(model=_MOE, phase="sync", axes=Axes(dp=16)),
)
