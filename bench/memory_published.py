"""Predicted bytes beside peaks that others published of A100, H100 and H20, and beside what fitted there.

    python bench/memory_published.py [--verbose] [--modules]

Nothing is fitted to these figures. They are of three kinds, since they do not measure the same:

- allocated: `torch.cuda.max_memory_allocated`, or torch's active bytes. Transformers 4.46 generating 2,048 tokens in
  bfloat16 with flash attention, one row (QwenLM/Qwen2.5, docs/source/benchmark/speed_benchmark.rst; measured by
  examples/speed-benchmark/speed_benchmark_transformers.py), and torchtune training Llama 3.2 3B on one GPU, two packs
  of 4,096 tokens (its README, "+ Packed Dataset"; the rows below it add what it is without: compile, a loss in
  pieces, recomputation, an optimiser inside the backward pass, 8-bit moments).
- held: the same page of Qwen3 (docs/source/getting_started/speed_benchmark.md). Its figures grow with the input by
  keys and values alone, so no peak of a prefill is in them: beside them stand weights, cache and one draw.
- reserved: what torch's allocator took of the device, of which some lies idle. torchtitan's FSDP2, float32 weights
  and bfloat16 computation, rows of 8,192 tokens, selective recomputation by op, without compile
  (benchmarks/llama3_h100_202412_torchtitan.md; pytorch/torchtitan pull requests 996, whose eight GPUs are its
  script's default, and 355).

What these systems do otherwise than our engine is said by a class of each: transformers' cache grows instead of being
filled; torchtune's numbers are all bfloat16; torchtitan makes every second matrix product again, and a step of it is
one micro-batch; both copy keys to all query heads. CUDA's context and NCCL's buffers lie outside torch's allocator and
are in none of these; cuBLAS's workspace is inside. `LEFT_OUT` has what could not be compared.

Exit 1 where an allocated or held figure is not within `BETWEEN`, where one of what is reserved is below the estimate,
or where what ran is said not to fit, or the other way round. `--modules` also runs torchtitan's policies on tensors
without data (`bench/memory_oracle.py`, a minute), to tell what its modules need from what the allocator keeps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.memory_cases import config_of
from bench.time_published import LLAMA2_70B, LLAMA_8B, LLAMA_70B
from rldsl.compiler.cost.activations import FLOAT32, Attention, Layer, Logits, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.hardware import GIB, HARDWARE
from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.memory import Training
from rldsl.compiler.cost.memory_generation import Generating
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Moment, Term, product
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.reserve import CUBLAS_WORKSPACE, MIB, reserved
from rldsl.compiler.cost.shard import Shard
from rldsl.compiler.ops import Recompute

BETWEEN = 0.97, 1.10
"""Estimate over published, of what is allocated or held."""
WIDTH = 2

QWEN_05B, QWEN_15B, QWEN3_8B = (read_config(config_of(f"Qwen{name}")) for name in ("2.5-0.5B", "2.5-1.5B", "3-8B"))
QWEN_3B = replace(QWEN_15B, layers=36, hidden=2048, heads=16, intermediate=11008)
QWEN_7B, QWEN_32B, QWEN3_MOE = (shipped_models()[f"Qwen{name}"] for name in ("2.5-7B", "2.5-32B", "3-30B-A3B"))
QWEN_14B = replace(QWEN_32B, layers=48, intermediate=13824)
LLAMA_3B = replace(LLAMA_8B, layers=28, hidden=3072, heads=24, intermediate=8192, tied=True)


class Kind(StrEnum):
    """What was measured."""

    ALLOCATED = "allocated"
    HELD = "held"
    RESERVED = "reserved"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure in GiB, and what the memory model makes of its configuration; `among`: the moments that system has."""

    name: str
    kind: Kind
    gib: float
    made: Footprint
    among: tuple[str, ...] = ()

    @property
    def moment(self) -> Moment:
        """The greatest."""
        return max((m for m in self.made.moments if m.name in self.among or not self.among), key=lambda m: m.bytes)

    @property
    def estimate(self) -> float:
        """GiB."""
        return (self.moment.bytes + CUBLAS_WORKSPACE) / GIB

    @property
    def ratio(self) -> float:
        """Estimate over published."""
        return self.estimate / self.gib

    @property
    def passed(self) -> bool:
        """Within the limits of its kind."""
        return self.ratio <= 1 if self.kind is Kind.RESERVED else BETWEEN[0] <= self.ratio <= BETWEEN[1]


# What other systems do.


class OneMicroBatch(States):
    """A step is one micro-batch: no gradients wait when logits are made, which is the peak of these trainings."""

    @cached_property
    def gradients(self) -> tuple[Term, ...]:
        """Those that come as layers are done take less than what these had kept."""
        return ()


class InBfloat16(OneMicroBatch):
    """torchtune on one GPU: weights and Adam's moments in bfloat16."""

    @cached_property
    def weights(self) -> tuple[Term, ...]:
        """Without masters."""
        return (product(Category.WEIGHTS, "weights", (self.width, "B"), (self.base, "parameters")),)

    @cached_property
    def optimizer(self) -> tuple[Term, ...]:
        """Two moments, without buffers."""
        return (product(Category.OPTIMIZER, "Adam's moments", (2 * self.width, "B"), (self.base, "parameters")),)


class SpreadKeys(Layer):
    """Keys and values are copied to all query heads that share them, and so kept."""

    @property
    def _gathered_keys(self) -> int:
        return 2 * self.width * self.places * self.shard.queries


class EverySecondProduct(SpreadKeys):
    """torchtitan's selective recomputation keeps the first, third, fifth and seventh product and attention's result."""

    @property
    def products(self) -> int:
        """With the layer's input."""
        shard = self.shard
        queries, values, gate, down = shard.queries, shard.keys, shard.intermediate, shard.hidden
        kept = shard.hidden + queries + values + shard.queries + gate + down
        return self.width * self.places * kept + FLOAT32 * self.places * shard.heads

    @property
    def _kept_anyway(self) -> int:
        return self.width * self.places * (self.shard.queries + self.shard.intermediate)


@dataclass(frozen=True, kw_only=True)
class Others(Training):
    """Training with another system's layers."""

    of: type[Layer] = Layer

    def layer(self, moe: bool) -> Layer:
        """One of its layers."""
        made = super().layer(moe)
        return self.of(**{field.name: getattr(made, field.name) for field in fields(made)})


def training(states: States, rows: int, length: int, recompute: Recompute, of: type[Layer]) -> Footprint:
    """One micro-batch of `rows` rows without padding, logits at all places."""
    places = rows * length
    micro = MicroBatch(packs=rows, length=length, states=places, cells=places)
    return Others(
        states=states, micro=micro, attention=Attention.CAUSAL, logits=Logits.WHOLE, recompute=recompute, of=of
    ).footprint


def torchtitan(facts: ModelFacts, gpus: int, rows: int, length: int = 8192, full: bool = False) -> Footprint:
    """FSDP2 over `gpus`, `rows` on each, with selective recomputation or a full one."""
    states = OneMicroBatch(shard=Shard(facts=facts, axes=Axes(dp=gpus)))
    recompute = Recompute.FULL if full else Recompute.SELECTIVE
    return training(states, rows, length, recompute, EverySecondProduct)


def generation(facts: ModelFacts, prompt: int) -> Footprint:
    """2,048 tokens to one prompt; flash attention has no mask."""
    return Generating(
        states=States(shard=Shard(facts=facts), width=WIDTH, trained=False),
        prompts=1,
        prompt=prompt,
        samples=1,
        new_tokens=2048,
        prefill=MicroBatch(packs=1, length=prompt, states=1, cells=prompt, longest=1),
    ).footprint


LENGTHS = (1, 6144, 14336, 30720)


def transformers(name: str, facts: ModelFacts, kind: Kind, *gib: float) -> tuple[Published, ...]:
    """Figures of the longest of `LENGTHS`, as many as there are."""
    among = ("prefill", "drawing") if kind is Kind.ALLOCATED else ("drawing",)
    return tuple(
        Published(name=f"{name}, {length:,} + 2,048", kind=kind, gib=g, made=generation(facts, length), among=among)
        for length, g in zip(LENGTHS[-len(gib) :], gib, strict=True)
    )


def held(name: str, facts: ModelFacts, *mib: int) -> tuple[Published, ...]:
    """The same from figures in MiB."""
    return transformers(name, facts, Kind.HELD, *(m * MIB / GIB for m in mib))


FIGURES: tuple[Published, ...] = (
    *transformers("Qwen2.5-0.5B, A100", QWEN_05B, Kind.ALLOCATED, 0.97, 1.23, 1.60, 2.34),
    *transformers("Qwen2.5-1.5B, A100", QWEN_15B, Kind.ALLOCATED, 2.95, 3.43, 4.16, 5.62),
    *transformers("Qwen2.5-3B, A100", QWEN_3B, Kind.ALLOCATED, 5.95, 6.59, 7.47, 9.30),
    *transformers("Qwen2.5-7B, A100", QWEN_7B, Kind.ALLOCATED, 14.38, 15.38, 16.91, 19.97),
    *transformers("Qwen2.5-14B, A100", QWEN_14B, Kind.ALLOCATED, 28.08, 29.50, 31.95, 36.85),
    *transformers("Qwen2.5-32B, A100", QWEN_32B, Kind.ALLOCATED, 63.72, 67.31, 74.47),
    Published(
        name="Llama 3.2 3B, A100, training, all bfloat16, 2 x 4,096",
        kind=Kind.ALLOCATED,
        gib=60.0,
        made=training(InBfloat16(shard=Shard(facts=LLAMA_3B)), 2, 4096, Recompute.NONE, SpreadKeys),
    ),
    *held("Qwen3-8B, H20", QWEN3_8B, 15947, 16811, 17963, 20267),
    *held("Qwen3-30B-A3B, H20", QWEN3_MOE, 58462, 59037, 59806, 61342),
    Published(name="Llama 3.1 8B, 8 H100, 2 x 8,192", kind=Kind.RESERVED, gib=82.4, made=torchtitan(LLAMA_8B, 8, 2)),
    Published(
        name="Llama 3.1 8B, 128 H100, 2 x 8,192", kind=Kind.RESERVED, gib=67.0, made=torchtitan(LLAMA_8B, 128, 2)
    ),
    Published(
        name="Llama 3 8B, 8 H100, 1 x 8,192 (996)", kind=Kind.RESERVED, gib=49.58, made=torchtitan(LLAMA_8B, 8, 1)
    ),
    Published(
        name="Llama 3 8B, 8 A100, 1 x 8,192 (355)", kind=Kind.RESERVED, gib=59.48, made=torchtitan(LLAMA_8B, 8, 1)
    ),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a training ran on A100 of 80 GB (torchtitan, docs/performance.md of 2024-07)."""

    name: str
    made: Footprint
    ran: bool

    @property
    def needs(self) -> float:
        """GiB of one rank, with what lies outside torch's allocator."""
        outside = reserved(cuda=True, communicators=1)
        return (self.made.bytes + sum(term.bytes for term in outside)) / GIB

    @property
    def fits(self) -> bool:
        """As a plan would say it."""
        return self.needs * GIB <= (HARDWARE["a100"].budget or 0)


VERDICTS = (
    Verdict(name="Llama 3 8B, selective, 1 x 8,192", made=torchtitan(LLAMA_8B, 64, 1), ran=True),
    Verdict(name="Llama 3 70B, full, 1 x 8,192", made=torchtitan(LLAMA_70B, 64, 1, full=True), ran=True),
    Verdict(name="Llama 2 70B, selective, 1 x 4,096", made=torchtitan(LLAMA2_70B, 64, 1, 4096), ran=True),
    Verdict(name="Llama 2 70B, selective, 2 x 4,096", made=torchtitan(LLAMA2_70B, 64, 2, 4096), ran=False),
    Verdict(name="Llama 2 70B, full, 2 x 4,096", made=torchtitan(LLAMA2_70B, 64, 2, 4096, full=True), ran=True),
)

TITAN = ((8, 1), (8, 2), (128, 2))
"""GPUs and rows of the trainings above."""

LEFT_OUT = (
    ("torchtitan with torch.compile or float8", "fused kernels; weights of another size"),
    ("torchtitan with tp (pull request 1690, docs/chunked_loss.md)", "sequence parallelism"),
    ("torchtitan with cp and flex attention (pull request 1884)", "what these two keep together is not known"),
    ("torchtitan with a loss in pieces (pull request 996)", "in pieces after the logits, not with them"),
    ("torchtitan without recomputation (its 13B; pytorch 129721)", "which norm is not said: 8 GiB of Llama 3 8B"),
    ("torchtune's other rows", "compiled, or rows of unknown lengths"),
    ("TRL, a million tokens of Qwen3-8B on 8 H100", "inputs of layers leave the device; how it was measured"),
    ("Qwen2.5-72B on two and three GPUs", "a sum of several devices' peaks"),
    ("verl's perf/max_memory_allocated_gb", "lengths of that step are not published with it"),
    ("LLaMA-Factory, axolotl, ms-swift, lit-gpt", "rounded, or rows of unknown lengths"),
    ("Hugging Face's anatomy of a model's memory", "BERT, an encoder"),
    ("arXiv 2205.05198 and 1910.02054, Megatron-LM's report", "formulas, not measurements, of an MLP without a gate"),
    ("vLLM's logs", "the pool is what it is told to take; none found names model, layout and precision"),
)


def line(each: Published, verbose: bool) -> str:
    """Estimate, published, ratio, and the moment that the estimate is of."""
    sizes = f"estimate {each.estimate:6.2f}  published {each.gib:6.2f} GiB"
    found = f"{each.name:56} {each.kind:9} {sizes}  {each.ratio:.3f}  at {each.moment.name}"
    terms = (f"    {t.bytes / GIB:8.3f} {t.what}: {t.formula}" for t in each.moment.terms if verbose)
    return "\n".join([found, *terms])


def unsplit(facts: ModelFacts) -> int:
    """Bytes that torch's allocator counts beside the weights, each of which has a block of its own.

    CUDACachingAllocator.cpp asks the device for multiples of 2 MiB where a block has 10 or more, and splits off what
    is too much only if it is above 1 MiB.
    """
    shard = Shard(facts=facts)
    layers = shard.layer_tensors(moe=False) * facts.layers
    sizes = [WIDTH * tensor.numbers for tensor in (*layers, *shard.root_tensors)]
    rests = [-size % (2 * MIB) for size in sizes if size >= 10 * MIB]
    return sum(rest for rest in rests if rest <= MIB)


def remainders() -> str:
    """The figures of one token in, which weights make up, with what is not split off of these."""
    found = []
    for name, facts in (("0.5B", QWEN_05B), ("1.5B", QWEN_15B), ("3B", QWEN_3B), ("7B", QWEN_7B), ("14B", QWEN_14B)):
        each = next(f for f in FIGURES if f.name.startswith(f"Qwen2.5-{name},"))
        rest = unsplit(facts) / GIB
        found.append(f"{name} {rest:.3f} GiB, so {(each.estimate + rest) / each.gib:.3f} for {each.ratio:.3f}")
    return f"not split off of the weights' blocks: {'; '.join(found)}"


def summary(kind: Kind) -> str:
    """How far off the figures of a kind are."""
    ratios = [each.ratio for each in FIGURES if each.kind is kind]
    spread = f"minimum {min(ratios):.3f}, median {statistics.median(ratios):.3f}, maximum {max(ratios):.3f}"
    return f"{kind}: {len(ratios)} figures, estimate over published: {spread}"


def beside_modules(gpus: int, rows: int) -> str:
    """What torchtitan's policies need of the modules themselves, and one pool of torch's allocator takes for that."""
    from bench.memory_published_oracle import measured  # imports torch

    needed, taken = (size / GIB for size in measured(gpus, rows))
    made = torchtitan(LLAMA_8B, gpus, rows).bytes / GIB
    what = f"Llama 3 8B, {gpus} ranks, {rows} x 8,192"
    return f"{what}: estimate {made:.2f}, modules {needed:.2f} GiB, {made / needed:.3f}; one pool takes {taken:.2f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="the terms of each estimate")
    parser.add_argument("--modules", action="store_true", help="torchtitan's policies on tensors without data too")
    options = parser.parse_args()
    for each in FIGURES:
        print(line(each, options.verbose))
    for verdict in VERDICTS:
        said, found = ("fits" if ok else "does not fit" for ok in (verdict.fits, verdict.ran))
        print(f"{verdict.name + ', 64 A100':56} needs {verdict.needs:6.2f} GiB: {said}; published: {found}")
    for what, why in LEFT_OUT:
        print(f"left out: {what}: {why}")
    print("\n".join(summary(kind) for kind in Kind))
    print(remainders())
    for gpus, rows in TITAN if options.modules else ():
        print(beside_modules(gpus, rows))
    return int(not all(e.passed for e in FIGURES) or any(v.fits != v.ran for v in VERDICTS))


if __name__ == "__main__":
    sys.exit(main())
