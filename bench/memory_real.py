"""What our engine really allocates on a CPU, counted by torch's allocator: no fake tensors, no pretended group.

Small models with random weights go through the engine's own code, packing and sampling loop included: training and
scoring on one rank and, sharded by FSDP2 over gloo, on two; generation on one. Of one rank every allocation and release
that the profiler reports is added up, those inside kernels too (but not what oneDNN takes for itself). Of two ranks it
is what their processes take, as the kernel has it, above what they took before there was a model, as it is in a run
within a budget; so there the reserve is part of the estimate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForCausalLM

from bench.memory_cases import Wave, config_of, generating
from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import model, score, sources, train
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.memory import Meter
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.optim import Optimizer
from rldsl.backends.engines.packing import micro_batches
from rldsl.backends.status import Status
from rldsl.compiler.cost.activations import Attention, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.memory import Scoring, Training
from rldsl.compiler.cost.memory_generation import saving
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Footprint, Moment
from rldsl.compiler.cost.reserve import process
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.ops import Arg, TrainOp
from rldsl.compiler.plan import ModelSpec

CPU = torch.device("cpu")
MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`rows` sequences of `prompt` + `response` tokens in micro-batches of `budget`, or one wave, on `ranks` ranks.

    `layers` cuts the model down to what a machine of a few GiB can hold. On several ranks rows are for two
    micro-batches or more: only then there are the sums of gradients that are counted.
    """

    model: str
    phase: str = "train"
    ranks: int = 1
    precision: str = "fp32"
    layers: int = 8
    rows: int = 8
    prompt: int = 32
    response: int = 96
    budget: int = 512
    lora_rank: int = 0
    wave: Wave | None = None

    @property
    def kind(self) -> str:
        """What it is judged with."""
        return "generation" if self.phase == "generate" else "training"

    @property
    def name(self) -> str:
        """What it does."""
        w = self.wave
        work = f"{w.prompts}x{w.samples} of {w.prompt}+{w.new_tokens}" if w else f"{self.rows} rows of "
        work += "" if w else f"{self.prompt}+{self.response}, {self.budget} a micro-batch"
        lora = f" lora {self.lora_rank}" if self.lora_rank else ""
        ranks = f"{self.ranks} rank" + "s" * (self.ranks > 1)
        return f"real: {self.model}/{self.layers} {self.phase} {self.precision}, {ranks}, {work}{lora}"

    @property
    def config(self) -> dict[str, Any]:
        """Of the shortened model."""
        return {**config_of(self.model), "num_hidden_layers": self.layers}

    def states(self) -> States:
        """As the memory model takes them."""
        lora = Lora(rank=self.lora_rank) if self.lora_rank else None
        shard = Shard(facts=read_config(self.config), axes=Axes(dp=self.ranks), lora=lora)
        return States(shard=shard, width=2 if self.precision == "bf16" else 4, trained=self.phase in ("train", "save"))


def _batch(run: Run, rank: int) -> tuple[Ragged, Ragged]:
    generator = torch.Generator().manual_seed(rank)
    length = run.prompt + run.response
    tokens = [torch.randint(0, 1000, (length,), generator=generator) for _ in range(run.rows)]
    return Ragged.of(tokens), Ragged.of([torch.arange(length) >= run.prompt for _ in tokens])


def estimate(run: Run) -> Footprint:
    """For the largest micro-batch that packing makes of the rows, or for the wave. Of several ranks with a reserve."""
    made = _footprint(run)
    if run.ranks == 1:
        return made
    # Here models have no tokenizers of their own.
    reserve = process((), run.layers)
    moments = tuple(Moment(name=m.name, terms=(*m.terms, *reserve)) for m in made.moments)
    return Footprint(moments=moments, resident=made.resident)


def _footprint(run: Run) -> Footprint:
    states = run.states()
    if run.wave is not None:
        return generating(run.wave, states)
    if run.phase == "save":
        return saving(states, cpu=True)
    budget = run.budget if run.phase == "train" else 4 * score.budget(CPU, 0)
    packed = [_packed(run, rank, budget) for rank in range(run.ranks)]
    micro, attention = max(packed, key=lambda m: m[0].places)
    made = Training if run.phase == "train" else Scoring
    return made(states=states, micro=micro, attention=attention, cpu=True).footprint


def _packed(run: Run, rank: int, budget: int) -> tuple[MicroBatch, Attention]:
    tokens, mask = _batch(run, rank)
    first = micro_batches(tokens, mask, torch.arange(run.rows), budget=budget)[0]
    packs, length = first.layout.tokens.shape
    micro = MicroBatch(packs=packs, length=length, states=len(first.states), cells=first.mask.numel())
    return micro, Attention.CAUSAL if first.layout.visible is None else Attention.MASKED


def measure(run: Run) -> int:
    """Bytes at the peak, of the rank that needs most."""
    if run.ranks == 1:
        return _peak(run, Comm.alone())
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(run, folder), nprocs=run.ranks)  # type: ignore[no-untyped-call]
        return max(int(p.read_text()) for p in Path(folder).glob("peak-*"))


def _rank(rank: int, run: Run, folder: str) -> None:
    torch.set_num_threads(1)
    status = Status(rank=rank, world_size=run.ranks)
    store = torch.distributed.FileStore(str(Path(folder, "store")), run.ranks)
    comm = Comm.connect(store, status, device=CPU, timeout_s=timedelta(minutes=5).total_seconds())
    Path(folder, f"peak-{rank}").write_text(str(_peak(run, comm)))
    comm.close()


def _peak(run: Run, comm: Comm) -> int:
    """Of the second pass over the same work: the first one makes the optimiser's state."""
    return _allocated(run, comm) if run.ranks == 1 else _taken(run, comm)


def _taken(run: Run, comm: Comm) -> int:
    meter = Meter(CPU)
    work = _work(run, comm, *_model(run, comm))
    work()
    meter.begin()
    work()
    most = meter.end()
    assert most is not None, "needs /proc"
    return most


def _allocated(run: Run, comm: Comm) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work = _work(run, comm, *_model(run, comm))
        work()
        with record_function(MEASURED):
            work()
    assert profiler.profiler is not None
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    began = next(e.start_ns() for e in events if e.name() == MEASURED)
    held = peak = 0
    for event in events:
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held) if event.start_ns() >= began else 0
    return peak


def _spec(run: Run) -> ModelSpec:
    return ModelSpec(
        name="m",
        kind="policy",
        source="",
        precision=run.precision,
        trainable=run.phase in ("train", "save"),
        lora_rank=run.lora_rank,
    )


def _model(run: Run, comm: Comm) -> tuple[Scorer, Optimizer | None]:
    """With random weights, as `Model.load` places them."""
    torch.manual_seed(0)
    spec = _spec(run)
    settings = run.config
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    scorer = model._scorer(module, spec, (), seed=0)
    return scorer, model._placed(scorer, comm, model._dtype(spec))


def _work(run: Run, comm: Comm, scorer: Scorer, optimizer: Optimizer | None) -> Callable[[], object]:
    """The op."""
    if run.wave is not None:
        return _sampling(scorer, run.wave)
    tokens, mask = _batch(run, comm.rank)
    if optimizer is None:
        asked = [score.Ask(head=Head(), mask=mask)]
        return lambda: score.per_token(scorer, comm, tokens, asked)
    if run.phase == "save":
        _train(run, comm, scorer, optimizer)()
        held = model.Model(_spec(run), scorer, _TOKENIZER, comm, optimizer, trunk=_spec(run))
        return partial(held.save, Path(tempfile.mkdtemp()) / "checkpoint")
    return _train(run, comm, scorer, optimizer)


def _train(run: Run, comm: Comm, scorer: Scorer, optimizer: Optimizer) -> Callable[[], object]:
    tokens, mask = _batch(run, comm.rank)
    op = _train_op(run)
    batch = train.TrainBatch(
        tokens=tokens,
        response_mask=mask,
        args={"advantages": torch.ones(run.rows)},
        prompt_index=torch.arange(run.rows) * run.ranks + comm.rank,
        num_prompts=op.batch,
    )
    return lambda: train.train(scorer, optimizer, comm, op, batch, policy_loss)


def _train_op(run: Run) -> TrainOp:
    return TrainOp(
        id="t",
        model="m",
        tokens="tokens",
        response_mask="mask",
        loss="policy_loss",
        args=(Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages")),
        lr=1e-6,
        batch=run.rows * run.ranks,
        minibatch=run.rows * run.ranks,
        micro_batch_tokens=run.budget,
    )


def _sampling(scorer: Scorer, wave: Wave) -> Callable[[], object]:
    sampler = Sampler.__new__(Sampler)
    sampler.scorer, sampler.device, sampler.seed, sampler.stops = scorer, CPU, 0, {0}
    prompts = [np.random.default_rng(i).integers(1, 1000, wave.prompt) for i in range(wave.prompts)]
    ids = torch.arange(wave.prompts * wave.samples)

    def sample() -> object:
        with torch.inference_mode():
            return sampler._sample(prompts, ids, wave.samples, wave.op, 0)

    return sample


_TINY = "SmolLM2-135M"
# Any will do: its files are small.
_TOKENIZER = sources.load(ModelSpec(name="m", kind="policy", source="scratch"), seed=0).tokenizer
# What the sizes inside kernels, gloo's copy and tied gradients were found with. These do not count.
FITTED_WITH: tuple[Run, ...] = (
    Run(model="Qwen2.5-0.5B", layers=2, precision="bf16", rows=4),
    Run(model="Qwen2.5-1.5B", layers=1, precision="bf16", rows=6, budget=256),
    Run(model=_TINY, layers=4, precision="bf16", ranks=2, rows=4, budget=256),
    Run(model=_TINY, phase="generate", wave=Wave(prompts=8, prompt=100, samples=8, new_tokens=32, top_p=0.9)),
)

RUNS: tuple[Run, ...] = (
    Run(model=_TINY),
    Run(model=_TINY, precision="bf16"),
    Run(model=_TINY, layers=4, rows=16, response=160, budget=1024),
    Run(model=_TINY, lora_rank=8),
    Run(model=_TINY, phase="infer"),
    Run(model=_TINY, layers=4, rows=3, prompt=100, response=1500, budget=2048),
    Run(model="Qwen2.5-0.5B", layers=2, precision="bf16", rows=1, prompt=100, response=3000, budget=4096),
    Run(model=_TINY, ranks=2),
    Run(model=_TINY, phase="save", ranks=2),
    Run(model=_TINY, phase="save", lora_rank=8),
    Run(model=_TINY, layers=30, rows=16, ranks=2),
    Run(model=_TINY, layers=4, ranks=4),
    Run(model="Qwen2.5-0.5B", layers=2, precision="bf16", ranks=2),
    Run(model="Qwen2.5-0.5B", layers=4, ranks=2),
    Run(model="Qwen2.5-0.5B", layers=4, phase="save", ranks=2),
    Run(model=_TINY, phase="generate", wave=Wave(prompts=4, prompt=64, samples=4, new_tokens=24)),
    Run(model=_TINY, phase="generate", wave=Wave(prompts=16, prompt=200, samples=4, new_tokens=40)),
    Run(model="Qwen2.5-0.5B", layers=2, phase="generate", wave=Wave(prompts=4, prompt=40, samples=4, new_tokens=16)),
    Run(
        model="Qwen2.5-0.5B",
        layers=2,
        phase="generate",
        precision="bf16",
        wave=Wave(prompts=6, prompt=60, samples=8, new_tokens=16, top_p=0.95),
    ),
)
