"""Weights on their way to a file or a sampler: no rank holds much more than one of them beside what it has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.memory_oracle import held_between_steps
from bench.memory_tracker import Alive
from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from tests.engine.tiny import SCRATCH, changed
from tests.ranks import on_ranks

LARGER = {"alphabet": "0123456789=+ ", "hidden": 128, "layers": 6, "heads": 2, "seed": 3}
SPECS = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "adapters": {"precision": "bf16", "lora_rank": 4},
}
Peak = tuple[int, int, int]


def taken(model: Model, sampler: Sampler, work: Callable[[], None]) -> int:
    """Bytes that `work` takes beside what is there."""
    alive = Alive()
    alive.add((*held_between_steps(model.scorer, model.optimizer), *sampler.scorer.parameters()))
    before = alive.now
    with alive:
        work()
    return alive.peak - before


def peaks(comm: Comm, folder: Path) -> dict[tuple[str, str], Peak]:
    """What saving and handing over take; bytes in float32 of the largest weight and of all."""
    found = {}
    for name, options in SPECS.items():
        model = Model.load(changed(SCRATCH, source_args=LARGER, **options), comm=comm, seed=0)
        sampler = Sampler(model, seed=0, staleness=1)
        sizes = [4 * p.numel() for p in model.scorer.parameters()]
        for what, work in (("save", partial(model.save, folder / name)), ("sync", partial(sampler.sync, model))):
            # On a busy machine gloo's threads let go of what they have gathered late: once in a while, not each time.
            peak = min(taken(model, sampler, work) for _ in range(3))
            found[name, what] = peak, max(sizes), sum(sizes)
    return found


def test_no_rank_holds_much_more_than_one_weight(tmp_path: Path) -> None:
    # The one before, a gathered one, what it is cast to; with its adapter, itself and their sum in float32.
    for each in (*on_ranks(peaks, tmp_path), peaks(Comm.alone(), tmp_path)):
        for (name, what), (peak, largest, whole) in each.items():
            assert peak <= (3.6 if name == "adapters" else 2.6) * largest < whole / 4, (name, what)


def test_a_sampler_keeps_its_storage_and_has_the_new_weights() -> None:
    model = Model.load(SCRATCH, comm=Comm.alone(), seed=0)
    sampler = Sampler(model, seed=0, staleness=1)
    before = {name: place.data_ptr() for name, place in sampler.places()}
    with torch.no_grad():
        for parameter in model.scorer.parameters():
            parameter.add_(1.0)
    old = {name: place.clone() for name, place in sampler.places()}
    sampler.sync(model)
    assert {name: place.data_ptr() for name, place in sampler.places()} == before
    want = model.weights()
    for name, place in sampler.places():
        assert torch.equal(place, want[name]) and not torch.equal(place, old[name]), name
