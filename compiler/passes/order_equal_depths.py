"""In which order nodes of one depth run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import ClassVar

from rldsl.compiler.ir import Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import trunk_of


@dataclass(frozen=True, kw_only=True)
class OrderEqualDepths:
    """Order the nodes of each depth so that the fewest passes go from one model's weights to another's.

    Where models share a device, each such change may move weights, and always moves caches. Nodes without a model
    come first, as written: what they free is free early. The number of changes is the least that any order by depths
    has: for each depth, by dynamic programming over the model that stands last.
    Before: depth 1: `old` (actor), `baseline` (critic); depth 2: `ref` (actor).   After: `baseline`, `old`, `ref`.
    """

    name: ClassVar[str] = "order_equal_depths"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with another `order`, still by depth; nodes that come earlier than written say why."""
        layers = layers_of(module.order, module.depths)
        trunks = trunks_of(module)
        sequence = _sequence([_models(layer, trunks) for layer in layers])
        order: list[str] = []
        for layer, models in zip(layers, sequence, strict=True):
            order += [n for n in layer if n not in trunks]
            order += [n for model in models for n in layer if trunks.get(n) == model]
        reasons = {n: _reason(n, other, trunks) for n, other in overtaking(layers, order)}
        return ordered(module, tuple(order), reasons)


def ordered(module: Module, order: tuple[str, ...], reasons: Mapping[str, Reason]) -> Module:
    """The module with this order of its nodes, each with its reason for where it stands."""
    nodes = tuple(_saying(n, reasons.get(n.id)) for n in module.graph.nodes)
    depths = {n: module.depths[n] for n in order}
    return replace(module, graph=module.graph.with_nodes(nodes), order=order, depths=depths)


def layers_of(order: Iterable[str], depths: Mapping[str, int]) -> list[tuple[str, ...]]:
    """An order by depth, cut where the next depth begins."""
    return [tuple(layer) for _, layer in groupby(order, key=depths.__getitem__)]


def trunks_of(module: Module) -> dict[str, str]:
    """By node that needs a model, the one whose weights it uses."""
    return {n.id: trunk_of(n.call.model, module.graph) for n in module.graph.nodes if n.call.model}


def overtaking(layers: Iterable[tuple[str, ...]], order: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each node that in `order` runs before one that comes earlier in its layer, and that one."""
    place = {name: i for i, name in enumerate(order)}
    for layer in layers:
        latest = layer[0]
        for name in layer:
            if place[name] < place[latest]:
                yield name, latest
            else:
                latest = name


def _reason(node: str, other: str, trunks: Mapping[str, str]) -> Reason:
    free = "it needs no model, and what it frees is free early"
    why = "fewer passes go from one model's weights to another's" if node in trunks else free
    return Reason(by=OrderEqualDepths.name, why=f"it runs before `{other}` of its depth: {why}")


def _saying(node: Node, reason: Reason | None) -> Node:
    return node if reason is None else changed(node, because=(*node.because, reason))


def _models(layer: tuple[str, ...], trunks: Mapping[str, str]) -> tuple[str, ...]:
    """The models of a depth, in the order in which they are first mentioned."""
    return tuple(dict.fromkeys(trunks[n] for n in layer if n in trunks))


def changes(sequence: Iterable[tuple[str, ...]]) -> int:
    """How often one model follows another."""
    flat = [m for models in sequence for m in models]
    return sum(a != b for a, b in pairwise(flat))


def _sequence(layers: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each depth's models in the order to run them, with the fewest changes over all; as written among equals."""
    best: dict[str | None, _Path] = {None: _Path(cost=0)}
    for models in layers:
        following: dict[str | None, _Path] = {}
        for before, path in best.items():
            for order in _ends(models, before):
                cost = path.cost + changes([(before,) if before else (), order])
                last = order[-1] if order else before
                if last not in following or cost < following[last].cost:
                    following[last] = _Path(cost=cost, order=order, before=path)
        best = following
    return min(best.values(), key=lambda path: path.cost).orders()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Path:
    """The best way found to end a depth with some model."""

    cost: int
    order: tuple[str, ...] = ()
    before: _Path | None = None

    def orders(self) -> list[tuple[str, ...]]:
        """The order of each depth, from the first."""
        found, path = [], self
        while path.before is not None:
            found.append(path.order)
            path = path.before
        return found[::-1]


def _ends(models: tuple[str, ...], before: str | None) -> list[tuple[str, ...]]:
    """Orders of a depth's models that matter: one for each that may stand last, first `before` if that is there."""
    if len(models) < 2:
        return [models]
    orders = []
    for last in (models[-1], *models[:-1]):
        rest = [m for m in models if m != last]
        first = [before] if before in rest else []
        orders.append((*first, *(m for m in rest if m not in first), last))
    return orders
