"""The blocks of a plan, loops and validations, and the parts into which they divide its graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rldsl.compiler.ops import CollectOp
from rldsl.compiler.plan import Plan
from rldsl.render.nodes import Edge, NodeView, edges_of, layers_of, nodes_of
from rldsl.render.scopes import leaf, scope_of_op
from rldsl.render.words import every_words, plural


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block, or an iteration of one (`resample.2`): its heading and what else is to be said of it."""

    id: str
    title: str
    note: str = ""
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of one block, or those between two blocks, in layers."""

    block: BlockView | None
    layers: tuple[tuple[NodeView, ...], ...]

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """All of them."""
        return tuple(n for layer in self.layers for n in layer)


def parts_of(plan: Plan, *, unrolled: bool = False, only: frozenset[str] | None = None) -> tuple[Part, ...]:
    """The graph from top to bottom: what needs no loop, a loop, what needs it, ...; the validations at the end.

    `only` are the ids of the nodes shown; None: all.
    """
    nodes = tuple(n for n in nodes_of(plan, unrolled=unrolled) if only is None or n.id in only)
    blocks = sorted(blocks_of(plan, unrolled=unrolled), key=lambda b: (b.apart, _begin(nodes, b.id)))
    loops = [b for b in blocks if not b.apart]
    stages = _stages(nodes, edges_of(plan, unrolled=unrolled), [b.id for b in loops])
    return tuple(p for p in _parts(nodes, blocks, stages, len(loops)) if p.layers)


def blocks_of(plan: Plan, *, unrolled: bool = False) -> tuple[BlockView, ...]:
    """Every block of the plan, as its ops' names and guards tell."""
    rounds: dict[str, int] = {}
    every: dict[str, int] = {}
    for op in plan.ops():
        scope = scope_of_op(op)
        if scope.round:
            rounds[scope.block] = max(scope.round, rounds.get(scope.block, 0))
        elif scope.block:
            every[scope.block] = op.guard.every if op.guard else 0
    found = [b for name, last in rounds.items() for b in _loop(plan, name, last, unrolled=unrolled)]
    return (*found, *(BlockView(b, f"validate {b}, {every_words(k)}", apart=True) for b, k in every.items()))


def _loop(plan: Plan, name: str, rounds: int, *, unrolled: bool) -> Iterator[BlockView]:
    collect = next((op for op in plan.ops() if isinstance(op, CollectOp) and op.into == name), None)
    if unrolled:
        for number in range(1, rounds + 1):
            note = f"only until {name} is full" if collect and number > 1 else ""
            yield BlockView(f"{name}.{number}", f"loop {name}, round {number} of {rounds}", note)
    elif collect:
        note = f"each with fresh prompts; keeps those where {leaf(collect.where)}, until there are {collect.batch}"
        yield BlockView(name, f"loop {name}, at most {plural(rounds, 'round')}", note)
    else:
        carried = [f for e in edges_of(plan) if e.again and e.source.startswith(f"{name}.") for f in e.fields]
        note = f"the next round goes on with {', '.join(dict.fromkeys(carried))}" if carried else ""
        yield BlockView(name, f"loop {name}, {plural(rounds, 'round')}", note)


def _begin(nodes: Iterable[NodeView], block: str) -> int:
    return min((n.depth for n in nodes if n.block == block), default=0)


def _stages(nodes: Sequence[NodeView], edges: Iterable[Edge], loops: Sequence[str]) -> dict[str, int]:
    """For each node outside blocks the number of loops above it: up to the last one that it needs."""
    after = {n.id: loops.index(n.block) + 1 for n in nodes if n.block in loops}
    sources: dict[str, list[str]] = {}
    for edge in edges:
        sources.setdefault(edge.target, []).append(edge.source)
    for node in sorted(nodes, key=lambda n: n.depth):
        if not node.block:
            after[node.id] = max((after.get(s, 0) for s in sources.get(node.id, ())), default=0)
    return {n.id: after[n.id] for n in nodes if not n.block}


def _parts(
    nodes: Sequence[NodeView], blocks: Sequence[BlockView], stages: dict[str, int], loops: int
) -> Iterator[Part]:
    for stage in range(loops + 1):
        if stage:
            yield _part(nodes, blocks[stage - 1])
        yield Part(None, layers_of(n for n in nodes if stages.get(n.id) == stage))
    yield from (_part(nodes, block) for block in blocks[loops:])


def _part(nodes: Iterable[NodeView], block: BlockView) -> Part:
    return Part(block, layers_of(n for n in nodes if n.block == block.id))
