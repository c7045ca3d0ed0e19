"""What goes from node to node, fields, kept rows and weights, and how: where it lies, by all-to-all, or gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from rldsl.compiler.ops import AnyOp, Move, ReshardOp, SyncKind, SyncWeightsOp, TakeOp, WaitOp
from rldsl.compiler.plan import Plan
from rldsl.compiler.volume import Sent, Volume
from rldsl.render.facts import Facts
from rldsl.render.nodes import node_id
from rldsl.render.scopes import general, leaf


class Kind(StrEnum):
    """What an edge carries; `after`: nothing, the target only waits."""

    FIELD = "field"
    ROWS = "rows"
    WEIGHTS = "weights"
    ORDER = "after"


class Way(StrEnum):
    """How something gets from one node to another."""

    LOCAL = "local"
    COPY = "copy"
    ALL_TO_ALL = "all-to-all"
    GATHERED = "all-gather"
    GATHER = "gather"
    SCATTER = "scatter"
    BROADCAST = "broadcast"
    NONE = ""


_SYNCS = {
    SyncKind.LOCAL: Way.LOCAL,
    SyncKind.COPY: Way.COPY,
    SyncKind.ALL_GATHER: Way.GATHERED,
    SyncKind.BROADCAST: Way.BROADCAST,
}
_MOVES = {
    Move.LOCAL: Way.LOCAL,
    Move.GATHER: Way.GATHER,
    Move.SCATTER: Way.SCATTER,
    Move.BROADCAST: Way.BROADCAST,
    Move.ALL_TO_ALL: Way.ALL_TO_ALL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """`what` goes from `source` to `target`, nodes; `between` says from which ranks to which.

    `volumes` are those of the fields, on all ranks together. `sent` is what the moves of this edge's fields send, for
    the first edge that each move serves; another edge finds the rows where they are. `weights` are the bytes of one
    copy of a model, where they are known. `left` are the fields of which copies stay where a move took them from.
    """

    source: str
    target: str
    kind: Kind
    what: tuple[str, ...] = ()
    way: Way
    between: str = ""
    volumes: tuple[Volume, ...] = ()
    sent: tuple[Sent, ...] = ()
    left: tuple[str, ...] = ()
    weights: int | None = None

    @property
    def crosses(self) -> bool:
        """Whether ranks send each other something."""
        return self.way not in (Way.LOCAL, Way.COPY, Way.NONE)


def flows_of(
    plan: Plan, *, unrolled: bool = False, weights: Mapping[str, int] = MappingProxyType({})
) -> tuple[Flow, ...]:
    """Every edge of fields, split where fields go in different ways; then weights, then mere order.

    Rounds of a loop are one, with the volumes of one. `weights` are the bytes of models that are known.
    """
    facts = Facts(plan)
    found: dict[tuple[str, str, Kind, Way, str], dict[str, tuple[AnyOp, str]]] = {}
    for source, op, field in _edges(facts):
        way, between = _way(facts, source, op, field)
        kind = Kind.ROWS if isinstance(op, TakeOp) else Kind.FIELD
        key = node_id(source, unrolled=unrolled), node_id(op, unrolled=unrolled), kind, way, between
        found.setdefault(key, {}).setdefault(leaf(field), (op, field))
    fields = (_field_flow(facts, *key, uses) for key, uses in found.items())
    return (*fields, *dict.fromkeys(_weights(facts, weights, unrolled=unrolled)), *_order(plan, unrolled=unrolled))


def _field_flow(
    facts: Facts, source: str, target: str, kind: Kind, way: Way, between: str, uses: dict[str, tuple[AnyOp, str]]
) -> Flow:
    volumes = (facts.volumes.volume(field) for _, field in uses.values())
    moves: dict[str, tuple[ReshardOp, list[str]]] = {}
    for op, field in uses.values():
        for move in facts.moves(field, op):
            moves.setdefault(move.id, (move, []))[1].append(field)
    sent = (facts.volumes.sent(move, fields) for move, fields in moves.values())
    left = (leaf(f) for move, fields in moves.values() for f in fields if f in move.keeps)
    return Flow(
        source=source,
        target=target,
        kind=kind,
        what=tuple(uses),
        way=way,
        between=between,
        volumes=tuple(v for v in volumes if v is not None),
        sent=tuple(s for s in sent if s is not None),
        left=tuple(dict.fromkeys(left)),
    )


def _edges(facts: Facts) -> Iterator[tuple[AnyOp, AnyOp, str]]:
    for op in facts.ops:
        if isinstance(op, TakeOp):
            yield from ((c, op, f) for c in facts.collects(op.collection) for f in op.outputs)
        elif not isinstance(op, ReshardOp | WaitOp):
            yield from ((facts.writer[f], op, f) for f in dict.fromkeys(op.reads) if f in facts.writer)


def _way(facts: Facts, source: AnyOp, op: AnyOp, field: str) -> tuple[Way, str]:
    if isinstance(op, TakeOp):
        return Way.ALL_TO_ALL, "" if source.group == op.group else f"{source.group} -> {op.group}"
    moves = facts.moves(field, op)
    if not moves:
        return Way.LOCAL, ""
    sent = [m for m in moves if m.kind is not Move.LOCAL]
    return _MOVES[(sent or moves)[-1].kind], " -> ".join((moves[0].source, *(m.target for m in moves)))


def _between(sync: SyncWeightsOp) -> str:
    if sync.sync is SyncKind.BROADCAST:
        return f"{sync.source} -> {sync.target}"
    return f"over {sync.group}" if sync.sync is SyncKind.ALL_GATHER else ""


def _weights(facts: Facts, weights: Mapping[str, int], *, unrolled: bool) -> Iterator[Flow]:
    """From the last training of each head on a model's trunk, its own among them, to its rollouts."""
    for sync in facts.syncs:
        way = _SYNCS[sync.sync]
        heads = {t.model: t for t in facts.trainings if facts.trunk(t.model) == facts.trunk(sync.model)}
        for training in heads.values():
            for rollout in facts.rollouts(sync):
                yield Flow(
                    source=node_id(training, unrolled=unrolled),
                    target=node_id(rollout, unrolled=unrolled),
                    kind=Kind.WEIGHTS,
                    what=(f"weights of {sync.model}",),
                    way=way,
                    between=_between(sync),
                    weights=weights.get(sync.model),
                )


def _order(plan: Plan, *, unrolled: bool) -> Iterator[Flow]:
    """What the user said with `after`."""
    said = (e for e in plan.edges if e[2] == Kind.ORDER.value)
    ends = ((a, b) if unrolled else (general(a), general(b)) for a, b, _ in said)
    for source, target in dict.fromkeys(ends):
        yield Flow(source=source, target=target, kind=Kind.ORDER, way=Way.NONE)


def near(flows: Iterable[Flow], nodes: frozenset[str] | None) -> tuple[Flow, ...]:
    """The flows that begin or end at one of the nodes; None: all."""
    return tuple(f for f in flows if nodes is None or nodes & {f.source, f.target})
