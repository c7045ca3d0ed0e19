"""Weights between ranks that hold a model and ranks that generate with it, on four real processes over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.weights import PARCEL_BYTES, Route, checksum, transfer
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import CRITIC, SCRATCH, changed
from tests.ranks import on_ranks

WORLD = 4
HEAD = changed(CRITIC, copy_of=None, shares="actor")
ROUTES = {
    "disjoint": Route((0, 1), (2, 3)),
    "the last ranks train": Route((2, 3), (0, 1)),
    "overlapping": Route((0, 1, 2), (2, 3)),
    "one trains": Route((1,), (0, 1, 3)),
    "inside": Route((0, 1, 2, 3), (1, 2)),
}
MODELS: dict[str, tuple[ModelSpec, list[ModelSpec]]] = {
    "fp32": (SCRATCH, []),
    "bf16": (changed(SCRATCH, precision="bf16"), []),
    "adapters": (changed(SCRATCH, precision="bf16", lora_rank=4), []),
    "a head": (SCRATCH, [HEAD]),
}


def moved(model: Model) -> Model:
    """As if it had been trained: alike for sharded weights and for whole ones."""
    assert model.optimizer is not None
    with torch.no_grad():
        for master in model.optimizer.masters.values():
            master.add_(0.25)
    model.optimizer._publish()
    return model


def loaded(spec: ModelSpec, heads: list[ModelSpec], way: Route, world: Comm) -> tuple[Model, Sampler | None] | None:
    """What a rank of the way has: of the model a part, or for sampling alone all of it as it began."""
    group = world.group_of(way.holders)
    if group is None and world.rank not in way.targets:
        return None
    if group is None:
        model = Model.load(changed(spec, trainable=False), comm=world.by_itself(), seed=0)
    else:
        model = moved(Model.load(spec, comm=group, seed=0, heads=heads))
    if world.rank in way.targets:
        return model, Sampler(model, seed=0)
    if way.meets and model.sharded:
        model.weights()
    return model, None


def held(model: Model, sampler: Sampler) -> dict[str, Tensor]:
    if sampler.scorer is model.scorer:
        return model.weights(dtype=model.dtype)
    return {name: w.detach().clone() for name, w in sampler.places()}


def sends(world: Comm, way: Route, model: Model, sampler: Sampler | None) -> int:
    """Runs the transfer; how many tensors this rank was sent, or has sent."""
    bridge = world.group_of(way.bridge) if way.bridge else None
    if bridge is None:
        transfer(way, world, model, sampler)
        return 0
    with mock.patch.object(bridge, "broadcast", side_effect=bridge.broadcast) as broadcast:
        transfer(way, world, model, sampler)
    return broadcast.call_count


def spoiled(world: Comm, way: Route, model: Model, sampler: Sampler | None) -> str:
    """What the last rank says when a bit of what it gets is another."""
    bridge = world.group_of(way.bridge)
    assert bridge is not None
    honest, calls = bridge.broadcast, []

    def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
        honest(tensor, source)
        if world.rank == 3 and not calls:
            tensor.view(-1)[0] += 1
        calls.append(1)
        return tensor

    with mock.patch.object(bridge, "broadcast", broadcast):
        try:
            transfer(way, world, model, sampler)
        except DiagnosticError as error:
            return str(error.diagnostics[0])
    return ""


def work(world: Comm, _folder: Path) -> dict[str, Any]:
    world.make_groups([*(w.holders for w in ROUTES.values()), *(w.bridge for w in ROUTES.values() if w.bridge)])
    found: dict[str, Any] = {}
    for where, way in ROUTES.items():
        for name, (spec, heads) in MODELS.items():
            if (here := loaded(spec, heads, way, world)) is None:
                continue
            model, sampler = here
            count = sends(world, way, model, sampler)
            found[where, name] = count, None if sampler is None else held(model, sampler)
    way = ROUTES["disjoint"]
    here = loaded(SCRATCH, [], way, world)
    assert here is not None
    found["spoiled"] = spoiled(world, way, *here) if world.rank in way.bridge else spoil_nothing(world, way, *here)
    return found


def spoil_nothing(world: Comm, way: Route, model: Model, sampler: Sampler | None) -> str:
    transfer(way, world, model, sampler)
    return ""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("where", ROUTES)
def test_samplers_have_the_weights_as_trained(ranks: list[Any], where: str, name: str) -> None:
    spec, heads = MODELS[name]
    model = moved(Model.load(spec, comm=Comm.alone(), seed=0, heads=heads))
    want = model.weights(dtype=model.dtype)
    for rank in ROUTES[where].targets:
        _, got = ranks[rank][where, name]
        assert got.keys() == want.keys()
        assert all(torch.equal(got[n], want[n]) and got[n].dtype == want[n].dtype for n in want), rank


def test_only_who_needs_it_is_sent_anything(ranks: list[Any]) -> None:
    for where, way in ROUTES.items():
        for rank in range(WORLD):
            if (where, "fp32") in ranks[rank]:
                # A parcel of all these small weights, and the checksums.
                assert ranks[rank][where, "fp32"][0] == (2 if rank in way.bridge else 0), (where, rank)


def test_the_bridge_is_the_first_holder_and_who_holds_nothing() -> None:
    assert [w.bridge for w in ROUTES.values()] == [(0, 2, 3), (0, 1, 2), (0, 3), (0, 1, 3), ()]
    assert [w.meets for w in ROUTES.values()] == [False, False, True, True, True]


def test_what_has_changed_on_its_way_is_told(ranks: list[Any]) -> None:
    said = [each["spoiled"] for each in ranks]
    assert said[:3] == ["", "", ""]
    assert "RL0712" in said[3] and "`actor`" in said[3] and "rank 3" in said[3]


def test_checksums() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.arange(7, dtype=dtype)
        one = checksum(weight)
        assert torch.equal(one, checksum(weight.clone().view(7, 1)))
        weight[6] = -weight[6]  # the last bytes, which fill no word of 8
        assert not torch.equal(one, checksum(weight))
    assert PARCEL_BYTES % 8 == 0
