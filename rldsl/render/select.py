"""Selectors of nodes, as in dbt: `x`, `+x` with all upstream of it, `x+` with all downstream, `2+x` two steps up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rldsl.compiler.ops import AnyOp, FreeOp, LoadOp, ReshardOp, SyncWeightsOp
from rldsl.compiler.plan import Plan
from rldsl.render.facts import Facts
from rldsl.render.nodes import Edge, edges_of, node_id, nodes_of
from rldsl.render.scopes import leaf

_SELECTOR = re.compile(r"(?:(?P<up>\d*)(?P<above>\+))?(?P<name>[\w.]+(?: \d+)?)(?:(?P<below>\+)(?P<down>\d*))?")


class SelectorError(ValueError):
    """A selector that selects nothing; `name` is what it asks for, empty if it cannot be read."""

    def __init__(self, selector: str, name: str = "") -> None:
        super().__init__(selector)
        self.selector = selector
        self.name = name


@dataclass(frozen=True, slots=True)
class Selector:
    """A node's name and how many steps up and down from it belong to it; None: all."""

    name: str
    up: int | None = 0
    down: int | None = 0


def parse_selector(text: str) -> Selector:
    """Read `+x`, `x+`, `+x+`, `2+x`, `x+1`. SelectorError on anything else."""
    match = _SELECTOR.fullmatch(text)
    if match is None:
        raise SelectorError(text)
    return Selector(match["name"], _steps(match["above"], match["up"]), _steps(match["below"], match["down"]))


def _steps(plus: str | None, count: str | None) -> int | None:
    if not plus:
        return 0
    return int(count) if count else None


def selected(plan: Plan, selectors: Sequence[str], *, unrolled: bool = False) -> frozenset[str]:
    """The ids of all nodes that any of the selectors names. SelectorError for one that names none."""
    edges = edges_of(plan, unrolled=unrolled)
    found: set[str] = set()
    for text in selectors:
        selector = parse_selector(text)
        start = _start(plan, selector, text, unrolled=unrolled)
        found |= _reached(start, edges, lambda e: (e.target, e.source), selector.up)
        found |= _reached(start, edges, lambda e: (e.source, e.target), selector.down)
    return frozenset(found)


def names_of(plan: Plan, *, unrolled: bool = False) -> tuple[str, ...]:
    """What a selector may name."""
    nodes = nodes_of(plan, unrolled=unrolled)
    return tuple(dict.fromkeys((*(n.label for n in nodes), *(n.block for n in nodes if n.block))))


def _start(plan: Plan, selector: Selector, text: str, *, unrolled: bool) -> set[str]:
    """A node by id or label, all of a block, or else the only node whose name ends so."""
    nodes = nodes_of(plan, unrolled=unrolled)
    exact = {n.id for n in nodes if selector.name in (n.id, n.label)}
    inside = {n.id for n in nodes if n.block == selector.name}
    ending = {n.id for n in nodes if leaf(n.label) == selector.name}
    found = exact | inside or (ending if len(ending) == 1 else set())
    if not found:
        raise SelectorError(text, selector.name)
    return found


def _reached(
    start: Iterable[str], edges: Iterable[Edge], ends: Callable[[Edge], tuple[str, str]], steps: int | None
) -> set[str]:
    nearby: dict[str, set[str]] = {}
    for near, far in map(ends, edges):
        nearby.setdefault(near, set()).add(far)
    seen, front = set(start), set(start)
    while front and steps != 0:
        front = set().union(*(nearby.get(n, set()) for n in front)) - seen
        seen |= front
        steps = None if steps is None else steps - 1
    return seen


def ops_of(plan: Plan, nodes: frozenset[str], *, unrolled: bool = False) -> frozenset[str]:
    """The ids of the ops of these nodes: their own, the transfers of weights to them, and moves of what they write."""
    facts = Facts(plan)
    own = {op.id for op in facts.ops if _belongs(facts, op, nodes, unrolled=unrolled)}
    fields = {f for op in facts.ops if op.id in own for f in op.writes}
    moves = {op.id for op in facts.ops if isinstance(op, FreeOp | ReshardOp) and fields.intersection(op.fields)}
    return frozenset(own | moves)


def _belongs(facts: Facts, op: AnyOp, nodes: frozenset[str], *, unrolled: bool) -> bool:
    if isinstance(op, SyncWeightsOp):
        return any(node_id(r, unrolled=unrolled) in nodes for r in facts.rollouts(op))
    return (isinstance(op, LoadOp) or op.node is not None) and node_id(op, unrolled=unrolled) in nodes
