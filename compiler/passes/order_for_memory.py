"""Another order of equal depths, where in the first one a plan does not fit or states must move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from rldsl.compiler.ir import SINKS, Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.order_equal_depths import OrderEqualDepths, layers_of, ordered, overtaking, trunks_of

_ORDERS = 64
"""So many orders are planned at most, and so many ops lowered for them: some tenths of a second."""
_OPS = 10_000

Order = tuple[str, ...]
_Tried = TypeVar("_Tried")


@dataclass(frozen=True, slots=True)
class _Unit:
    """Nodes of one depth that stay together: those of one model, or one that has none."""

    nodes: Order
    model: str | None


def better_order(module: Module, first: _Tried, attempt: Callable[[Order, _Tried], _Tried | None]) -> _Tried:
    """The best found by giving one unit after another a better place among its depth; `first` if none is better.

    `attempt` plans an order and is told the best so far; it answers None where the order is no better than that.
    Orders are tried one after the other, always in the same sequence, and a better one is gone on from: so the answer
    depends on the module alone.
    """
    best, order, seen = first, module.order, {module.order}
    left = min(_ORDERS, _OPS // max(1, len(module.ops)))
    waiting = neighbours(module, order)
    while left and (other := next(waiting, None)) is not None:
        if other in seen:
            continue
        seen.add(other)
        left -= 1
        tried = attempt(other, best)
        if tried is not None:
            best, order, waiting = tried, other, neighbours(module, other)
    return best


def neighbours(module: Module, order: Order) -> Iterator[Order]:
    """The orders in which one unit stands elsewhere among its depth: models first, last or first before between."""
    trunks = trunks_of(module)
    layers = [_units(layer, trunks) for layer in layers_of(order, module.depths)]
    for of_models in (True, False):
        for index, layer in enumerate(layers):
            before, after = _flat(layers[:index]), _flat(layers[index + 1 :])
            for unit in layer:
                if (unit.model is not None) is of_models and not _sink(unit, module):
                    yield from ((*before, *other, *after) for other in _shifted(layer, unit))


def _shifted(layer: list[_Unit], unit: _Unit) -> Iterator[Order]:
    """A depth with one unit elsewhere."""
    rest = [u for u in layer if u is not unit]
    for place in dict.fromkeys((len(rest), 0, *range(1, len(rest)))):
        yield _flat([[*rest[:place], unit, *rest[place:]]])


def _flat(layers: Iterable[Iterable[_Unit]]) -> Order:
    return tuple(n for layer in layers for unit in layer for n in unit.nodes)


def _units(layer: Order, trunks: Mapping[str, str]) -> list[_Unit]:
    alike: dict[tuple[str, str | None], list[str]] = {}
    for name in layer:
        model = trunks.get(name)
        alike.setdefault(("", model) if model else (name, None), []).append(name)
    return [_Unit(tuple(names), model) for (_, model), names in alike.items()]


def _sink(unit: _Unit, module: Module) -> bool:
    """Whether it leaves no field behind: then it is well placed as early as it can be."""
    return all(module.graph.node_of[n].call.method in SINKS for n in unit.nodes)


def reordered(module: Module, order: Order, by: str, why: str) -> Module:
    """The module in another order of equal depths; what no longer holds of its nodes' places is no longer said."""
    written = {n.id: i for i, n in enumerate(module.graph.nodes)}
    place = {name: i for i, name in enumerate(order)}
    as_written = layers_of(sorted(order, key=lambda n: (module.depths[n], written[n])), module.depths)
    stale = {n for n, other in overtaking(as_written, module.order) if place[n] > place[other]}
    nodes = tuple(_without(n) if n.id in stale else n for n in module.graph.nodes)
    reasons = {
        n: Reason(by=by, why=f"it runs before `{other}` of its depth: {why}")
        for n, other in overtaking(layers_of(module.order, module.depths), order)
    }
    return ordered(replace(module, graph=module.graph.with_nodes(nodes)), order, reasons)


def _without(node: Node) -> Node:
    return changed(node, because=tuple(r for r in node.because if r.by != OrderEqualDepths.name))
