"""A training step of one long row with a mask of its square, as packs of several rows have it, and without.

    python bench/long_rows.py [--tokens 8192] [--layers 2] [--repeat 3]

Layers of SmolLM2-135M with random weights, float32, forward and backward pass on one processor. Seconds are the
least of the repetitions, which alternate; memory is what `bench/memory_tracker.py` counts beside weights and gradients.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.memory_cases import config_of
from bench.memory_tracker import Alive
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.model import _scorer
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.packing import MicroBatch, micro_batches
from rldsl.compiler.plan import ModelSpec

MODEL = "SmolLM2-135M"
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the row")
    parser.add_argument("--layers", type=int, default=2, help="layers of the model")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each form")
    options = parser.parse_args()
    scorer, found = made(options.layers, options.tokens), row(options.tokens)
    forms = {"with a mask": True, "without": False}
    seconds = {name: float("inf") for name in forms}
    for _ in range(options.repeat):
        for name, masked in forms.items():
            seconds[name] = min(seconds[name], timed(scorer, found, masked=masked))
    bytes_ = {name: peak(scorer, found, masked=masked) for name, masked in forms.items()}
    for name in forms:
        print(f"{name:<12} {seconds[name]:8.2f} s {bytes_[name] / MIB:10,.1f} MiB beside the model")
    (masked_s, plain_s), (masked_b, plain_b) = seconds.values(), bytes_.values()
    print(f"a row of {options.tokens:,} tokens without a mask: {masked_s / plain_s:.2f} times as fast, ", end="")
    print(f"{plain_b / masked_b:.3f} of the memory")
    return 0


def made(layers: int, tokens: int) -> Scorer:
    """The shortened model."""
    torch.manual_seed(0)
    settings = {**config_of(MODEL), "num_hidden_layers": layers, "max_position_embeddings": tokens}
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    return _scorer(module, ModelSpec(name="m", kind="policy", source="", trainable=True), (), seed=0)


def row(tokens: int) -> MicroBatch:
    """One row, of which the last 64 tokens are the response."""
    ids = torch.randint(0, 1000, (tokens + 1,), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(tokens + 1) >= tokens - 63
    (found,) = micro_batches(Ragged.of([ids]), Ragged.of([mask]), torch.arange(1), budget=tokens)
    return found


def step(scorer: Scorer, micro: MicroBatch, *, masked: bool) -> None:
    """Forward and backward pass; as packs of several rows go through, `masked`."""
    layout = micro.layout
    if masked:
        size = layout.tokens.shape[1]
        visible = torch.ones(1, size, size, dtype=torch.bool).tril_()
        layout = type(layout)(tokens=layout.tokens, positions=layout.positions, visible=visible)
    states = scorer.hidden(layout).flatten(0, 1)[micro.states]
    scorer._said(Head(), states, micro).sum().backward()


def timed(scorer: Scorer, micro: MicroBatch, *, masked: bool) -> float:
    """Seconds."""
    began = time.perf_counter()
    step(scorer, micro, masked=masked)
    return time.perf_counter() - began


def peak(scorer: Scorer, micro: MicroBatch, *, masked: bool) -> int:
    """Bytes, once there are gradients."""
    alive = Alive()
    alive.add([*scorer.parameters(), *(p.grad for p in scorer.parameters() if p.grad is not None)])
    before = alive.now
    with alive:
        step(scorer, micro, masked=masked)
    return alive.peak - before


if __name__ == "__main__":
    sys.exit(main())
