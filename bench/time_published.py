"""Predicted seconds beside published ones: training by FSDP2 on up to 128 GPUs, decoding on one.

    python bench/time_published.py

Training is torchtitan's (docs/performance.md of 2024-07 for A100, benchmarks/llama3_h100_202412_torchtitan.md for
H100), without torch.compile and float8, in tokens a second and GPU; its selective recomputation makes every second
matrix product again. Decoding is vLLM's with one request at a time, 1,024 tokens in and 128 out, as the inference
sweep of johnmusgrave.com measured it. The two figures marked `fit` gave the constants of `time_model`; exit 1 where
another is off by more than a fifth.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.hardware import HARDWARE
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.time_model import (
    Placed,
    Rows,
    causal_work,
    decode_seconds,
    optimizer_seconds,
    train_seconds,
)

LIMIT = 1.2
LLAMA_8B = shipped_models()["Llama-3.1-8B"]
LLAMA_70B = replace(LLAMA_8B, layers=80, hidden=8192, heads=64, intermediate=28672)
LLAMA2_13B = replace(LLAMA_8B, layers=40, hidden=5120, heads=40, kv_heads=40, intermediate=13824, vocab=32000)
LLAMA2_70B = replace(LLAMA_70B, vocab=32000)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A published rate: `batch` rows of `length` tokens on each of `gpus`, in tokens a second and GPU."""

    name: str
    facts: ModelFacts
    hardware: str
    gpus: int
    batch: int
    length: int
    recompute: float
    published: float
    fit: bool = False

    @property
    def predicted(self) -> float:
        """Tokens a second and GPU."""
        placed = Placed(facts=self.facts, axes=Axes(dp=self.gpus), hardware=HARDWARE[self.hardware])
        rows = Rows(prompts=self.batch * self.gpus, samples=1, prompt_tokens=0, response_tokens=self.length)
        work = causal_work(self.facts, rows, self.gpus)
        step = train_seconds(placed, work, micro_batches=1, recompute=self.recompute) + optimizer_seconds(placed)
        return self.batch * self.length / step


def training(name: str, facts: ModelFacts, *setting: float, hardware: str = "a100", fit: bool = False) -> Training:
    """`setting`: GPUs, rows on each, their length, the part made again, and what was published."""
    gpus, batch, length, recompute, published = setting
    return Training(
        name=name,
        facts=facts,
        hardware=hardware,
        gpus=int(gpus),
        batch=int(batch),
        length=int(length),
        recompute=recompute,
        published=published,
        fit=fit,
    )


TRAINING = (
    training("Llama 3 8B, 64 A100, selective", LLAMA_8B, 64, 1, 8192, 0.5, 2973, fit=True),
    training("Llama 3 70B, 64 A100, full", LLAMA_70B, 64, 1, 8192, 1, 331),
    training("Llama 2 13B, 64 A100, none", LLAMA2_13B, 64, 2, 4096, 0, 2162),
    training("Llama 2 13B, 64 A100, selective", LLAMA2_13B, 64, 2, 4096, 0.5, 1904),
    training("Llama 2 70B, 64 A100, selective", LLAMA2_70B, 64, 1, 4096, 0.5, 355),
    training("Llama 2 70B, 64 A100, full", LLAMA2_70B, 64, 2, 4096, 1, 353),
    training("Llama 3.1 8B, 8 H100, selective", LLAMA_8B, 8, 2, 8192, 0.5, 5762, hardware="h100", fit=True),
    training("Llama 3.1 8B, 128 H100, selective", LLAMA_8B, 128, 2, 8192, 0.5, 5605, hardware="h100"),
)
DECODING = 75.0
"""Tokens a second of Llama 3.1 8B on one A100 of 40 GB, one request at a time."""


def decoding() -> float:
    """The same, predicted."""
    placed = Placed(facts=LLAMA_8B, axes=Axes(), hardware=HARDWARE["a100_40"])
    return 1 / decode_seconds(placed, running=1, length=1024 + 64)


def line(name: str, kind: str, predicted: float, published: float) -> str:
    """Both rates, in tokens a second, and what that means for the seconds."""
    rates = f"predicted {predicted:6.0f} tokens/s  published {published:6.0f}"
    return f"{name:34} {kind:5} {rates}  seconds: predicted over published {published / predicted:.2f}"


def main() -> int:
    """Print a line for each figure."""
    worst = 1.0
    for each in TRAINING:
        ratio = each.published / each.predicted
        print(line(each.name, "fit" if each.fit else "check", each.predicted, each.published))
        if not each.fit:
            worst = max(worst, ratio, 1 / ratio)
    print(line("Llama 3.1 8B, A100 40 GB, decoding", "fit", decoding(), DECODING))
    print(f"worst of those that check: a factor of {worst:.2f}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
