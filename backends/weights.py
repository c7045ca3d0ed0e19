"""Trained weights on their way from the ranks that hold them to those that generate.

The holders gather one parameter after the other over their own group. What ranks outside it need goes from the first
holder to these alone, over a group of their own, in parcels; they write it over what their sampler has, so that no rank
holds a second copy, and compare checksums.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.compiler.ops import SyncWeightsOp
from rldsl.compiler.plan import Group, Plan
from rldsl.diagnostics import fail

PARCEL_BYTES = 16 << 20
"""Small tensors travel together up to this size; the copies that this takes cost less than their latency."""

Named = tuple[str, Tensor]


@dataclass(frozen=True, slots=True)
class Route:
    """Ranks of the world, rising: those over which a model lies, and those that generate with it."""

    holders: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def bridge(self) -> tuple[int, ...]:
        """The first holder and the ranks that it sends to, rising; empty where all that generate are holders."""
        outside = set(self.targets).difference(self.holders)
        return tuple(sorted({self.holders[0], *outside})) if outside else ()

    @property
    def meets(self) -> bool:
        """Whether a holder generates."""
        return not set(self.targets).isdisjoint(self.holders)


def members(group: Group, world_size: int) -> tuple[int, ...]:
    """The ranks of a group, rising."""
    return tuple(rank for first, last in group.spans(world_size) for rank in range(first, last))


def route(op: SyncWeightsOp, plan: Plan, world_size: int) -> Route:
    """The way of the weights of `op`."""
    return Route(*(members(plan.group(name), world_size) for name in (op.source, op.target)))


def groups_of(plan: Plan, world_size: int) -> Iterator[tuple[int, ...]]:
    """Every set of ranks that the ops of a plan meet in, bridges among them."""
    for group in plan.groups:
        yield members(group, world_size)
    for op in plan.ops():
        if isinstance(op, SyncWeightsOp) and (bridge := route(op, plan, world_size).bridge):
            yield bridge


def groups_beside(plan: Plan, world_size: int) -> Iterator[tuple[int, ...]]:
    """Every set of ranks that transfers in the background meet in."""
    for op in plan.ops():
        if isinstance(op, SyncWeightsOp) and op.background and op.collective:
            way = route(op, plan, world_size)
            yield from filter(None, (way.holders, way.bridge))


def transfer(way: Route, world: Comm, model: Model, sampler: Sampler | None) -> None:
    """Give the samplers at the end of `way` the weights of `model` as they are, on the ranks that have one.

    Every rank of the way calls it: holders with the model, those that generate with their sampler. RL0712 where
    something else has arrived than was sent.
    """
    bridge = world.group_of(way.bridge) if way.bridge else None
    first = way.holders[0]
    if world.rank not in way.holders:
        assert bridge is not None and sampler is not None, "a rank without a part of the model generates with it"
        _receive(sampler, bridge, way.bridge.index(first))
        return
    weights: Iterator[Named] | None = None
    if bridge is not None:
        weights = _sent(model.each_weight(dtype=model.dtype), bridge, way.bridge.index(first))
    if sampler is not None:
        sampler.sync(model, weights)
    elif weights is not None or model.sharded:
        # To be gathered at all, a parameter needs every holder.
        deque(weights or model.each_weight(dtype=model.dtype), maxlen=0)


def transfer_later(way: Route, beside: Comm, model: Model, sampler: Sampler | None) -> Callable[[], None]:
    """`transfer` for another thread: of the weights that the model has now, which must stay as they are meanwhile.

    It meets other ranks over `beside` alone, see `Comm.make_beside`, and all ends write over the weights that a sampler
    has already: to make new modules is not for a thread beside others.
    """
    bridge = beside.group_of(way.bridge) if way.bridge else None
    first = way.holders[0]
    if beside.rank not in way.holders:
        assert bridge is not None and sampler is not None, "a rank without a part of the model generates with it"
        return partial(_receive, sampler, bridge, way.bridge.index(first))
    holders = beside.group_of(way.holders) if model.sharded else None
    weights = model.each_weight(dtype=model.dtype, comm=holders)
    if bridge is not None:
        weights = _sent(weights, bridge, way.bridge.index(first))
    if sampler is not None and sampler.own_copy:
        return partial(sampler.renew, weights)
    return partial(_drained, weights)


@torch.no_grad()
def _drained(weights: Iterable[Named]) -> None:
    """To be gathered and sent at all, a parameter needs every holder."""
    deque(weights, maxlen=0)


def _parcels(weights: Iterable[Named]) -> Iterator[list[Named]]:
    """Weights that travel together, alike on both sides: neighbours of one dtype up to `PARCEL_BYTES`, or one alone."""
    parcel: list[Named] = []
    size = 0
    for name, weight in weights:
        if parcel and (size + weight.nbytes > PARCEL_BYTES or weight.dtype != parcel[0][1].dtype):
            yield parcel
            parcel, size = [], 0
        parcel.append((name, weight))
        size += weight.nbytes
    if parcel:
        yield parcel


def _sent(weights: Iterable[Named], bridge: Comm, root: int) -> Iterator[Named]:
    """The weights as they go by, once they have been sent."""
    sums: dict[str, Tensor] = {}
    for parcel in _parcels(weights):
        flat = [weight.flatten() for _, weight in parcel]
        bridge.broadcast(torch.cat(flat) if len(flat) > 1 else flat[0], root)
        sums |= {name: checksum(weight) for name, weight in parcel}
        yield from parcel
    bridge.broadcast(_together(sums), root)


@torch.no_grad()
def _receive(sampler: Sampler, bridge: Comm, root: int) -> None:
    sums: dict[str, Tensor] = {}
    for parcel in _parcels(sampler.places()):
        places = [place for _, place in parcel]
        if len(places) == 1 and places[0].is_contiguous():
            bridge.broadcast(places[0], root)
        else:
            flat = bridge.broadcast(places[0].new_empty(sum(p.numel() for p in places)), root)
            for place, piece in zip(places, torch.split(flat, [p.numel() for p in places]), strict=True):
                place.copy_(piece.view_as(place))
        sums |= {name: checksum(place) for name, place in parcel}
    mine = _together(sums)
    sent = bridge.broadcast(mine.clone(), root)
    if not torch.equal(mine, sent):
        _differ(sampler.name, list(sums), mine, sent, bridge, root)


def checksum(weight: Tensor) -> Tensor:
    """i64[]: the sum of a tensor's bytes in words of 8, whatever carries over is lost."""
    raw = weight.detach().flatten().view(torch.uint8)
    whole = len(raw) // 8 * 8
    return raw[:whole].view(torch.int64).sum() + raw[whole:].sum(dtype=torch.int64)


def _together(sums: Mapping[str, Tensor]) -> Tensor:
    """i64[1 + weights]: their names in one number, and the checksum of each."""
    found = torch.stack(list(sums.values()))
    return torch.cat((found.new_tensor([zlib.crc32("\n".join(sums).encode())]), found))


def _differ(model: str, names: list[str], mine: Tensor, sent: Tensor, bridge: Comm, root: int) -> NoReturn:
    assert mine[0] == sent[0], f"both ends of a transfer of `{model}` name their weights alike"
    wrong = [names[i] for i in (mine != sent).nonzero()[:, 0].sub(1).tolist()]
    fail(
        "RL0712",
        f"the weights of model `{model}` have changed on their way to rank {bridge.status.rank}",
        expected=f"the checksums that rank {bridge.members[root]} sent with them",
        found=f"another one of {', '.join(wrong[:3])}" + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
        fix="look for faults of memory and network on these hosts, and run again from the last checkpoint",
    )
