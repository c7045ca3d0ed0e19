"""The configurations that the memory model is compared on, and its estimate of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rldsl.compiler.cost.activations import Attention, Logits, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import models_folder
from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.memory import Scoring, Training
from rldsl.compiler.cost.memory_generation import Generating
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Footprint
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.plan import Recompute

ENGINE_LOGITS = 1 << 25
# Places of a micro-batch of prompts: `backends/engines/generate.py` takes four training micro-batches' on a CPU.
PREFILL, PACK = 8192, 512

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave of generation: `prompts` of `prompt` tokens, `samples` of `new_tokens` each."""

    prompts: int
    prompt: int
    samples: int
    new_tokens: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A micro-batch of `packs` x `length` places, of which `states` are before response tokens.

    `masked`: attention as our engine has it, with a mask; otherwise causal without one.
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
    kept_logits: int = ENGINE_LOGITS
    lora_rank: int = 0
    stage: int = 0
    zero: int = 3
    wave: Wave | None = None

    @property
    def kind(self) -> str:
        """What it is judged with."""
        return "generation" if self.phase == "generate" else "training"

    @property
    def name(self) -> str:
        """What differs from the usual."""
        axes = [f"{k}{v}" for k, v in zip(("dp", "tp", "pp", "cp", "ep"), _sizes(self.axes), strict=True) if v > 1]
        parts = [self.model, self.phase, self.precision, *axes]
        if self.wave is not None:
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
        shard=shard, width=2 if case.precision == "bf16" else 4, trained=case.phase == "train", zero=case.zero
    )
    if case.wave is not None:
        return _generating(case.wave, states)
    rows = case.packs * case.rows_per_pack
    settings: dict[str, Any] = {
        "states": states,
        "micro": MicroBatch(packs=case.packs, length=case.length, states=case.states, rows=rows),
        "attention": Attention.MASKED if case.masked else Attention.CAUSAL,
        "logits": Logits(case.logits),
        "chunk": case.kept_logits,
    }
    if case.phase == "train":
        return Training(**settings, recompute=Recompute(case.recompute)).footprint
    return Scoring(**settings).footprint


def _generating(wave: Wave, states: States) -> Footprint:
    length = max(1, PACK // wave.prompt) * wave.prompt
    packs = min(-(-wave.prompts * wave.prompt // length), max(1, PREFILL // length))
    return Generating(
        states=states,
        prompts=wave.prompts,
        prompt=wave.prompt,
        samples=wave.samples,
        new_tokens=wave.new_tokens,
        prefill=MicroBatch(packs=packs, length=length, states=0),
        top_p=wave.top_p < 1,
    ).footprint


CASES: tuple[Case, ...] = ()
