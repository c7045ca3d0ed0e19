"""In which order nodes of one depth run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from rldsl.compiler.ir import Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import holder_of


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
        layers: dict[int, list[Node]] = {}
        for node_id in module.order:
            layers.setdefault(module.depths[node_id], []).append(module.graph.node_of[node_id])
        trunks = {n.id: holder_of(n.call.model, module.graph) for n in module.graph.nodes if n.call.model}
        sequence = _sequence([_models(layer, trunks) for layer in layers.values()])
        order: list[str] = []
        for layer, models in zip(layers.values(), sequence, strict=True):
            order += [n.id for n in layer if n.id not in trunks]
            order += [n.id for model in models for n in layer if trunks.get(n.id) == model]
        place = {name: i for i, name in enumerate(order)}
        whys = {n: why for layer in layers.values() for n, why in _overtaking(layer, place, trunks)}
        nodes = tuple(_saying(n, whys.get(n.id)) for n in module.graph.nodes)
        depths = {n: module.depths[n] for n in order}
        return replace(module, graph=module.graph.with_nodes(nodes), order=tuple(order), depths=depths)


def _overtaking(layer: list[Node], place: dict[str, int], trunks: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each node that now runs before one written earlier, and why."""
    latest = layer[0].id
    for node in layer:
        if place[node.id] < place[latest]:
            free = "it needs no model, and what it frees is free early"
            why = "fewer passes go from one model's weights to another's" if node.id in trunks else free
            yield node.id, f"it runs before `{latest}` of its depth: {why}"
        else:
            latest = node.id


def _saying(node: Node, why: str | None) -> Node:
    if why is None:
        return node
    return changed(node, because=(*node.because, Reason(by=OrderEqualDepths.name, why=why)))


def _models(layer: list[Node], trunks: dict[str, str]) -> tuple[str, ...]:
    """The models of a depth, in the order in which they are first mentioned."""
    return tuple(dict.fromkeys(trunks[n.id] for n in layer if n.id in trunks))


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
