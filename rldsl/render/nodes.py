"""The plan's nodes as the views need them: one record a node, its edges, and the blocks they stand in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    LoadOp,
    MetricOp,
    OutputOp,
    TakeOp,
    TrainOp,
    parts,
)
from rldsl.compiler.plan import Plan
from rldsl.render.scopes import Scope, general, inside, leaf, scope_of, scope_of_op
from rldsl.render.words import call_of, guard_words
from rldsl.types import NodeType, Role

INPUT, METRIC, OUTPUT, LOOP = "INPUT", "METRIC", "OUTPUT", "LOOP"
_ModelOp = GenerateOp | ExtendOp | InferOp | TrainOp
_NodeOp = LoadOp | _ModelOp | ComputeOp | CollectOp | TakeOp | MetricOp | OutputOp
_OWN_ROLES: dict[type, str] = {LoadOp: INPUT, MetricOp: METRIC, OutputOp: OUTPUT, CollectOp: LOOP, TakeOp: LOOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node: who it is, what it does (`call`, such as `actor.generate`), what it reads and writes.

    `role` is INPUT, METRIC, OUTPUT or LOOP, and `type` empty, for what is no step of the algorithm. Nodes of a loop
    that is shown once have the number of iterations as `times`. `block` is the block or the iteration in which the
    node stands, `when` says in which steps it runs where the block does not.
    """

    id: str
    label: str
    role: str
    type: str
    call: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    depth: int
    block: str = ""
    when: str = ""
    times: int = 1

    @property
    def title(self) -> str:
        """`rollout`, `resample.rollout  x3`."""
        return self.label if self.times == 1 else f"{self.label}  x{self.times}"


class Edge(NamedTuple):
    """`fields` flow from `source` to `target`, or with `again` to the target in the next iteration."""

    source: str
    target: str
    fields: tuple[str, ...]
    again: bool = False


def nodes_of(plan: Plan, *, unrolled: bool = False) -> tuple[NodeView, ...]:
    """Every node of the plan and one for each source of input rows, in program order.

    The iterations of a loop are one node each, or with `unrolled` so many.
    """
    ops = [op for op in parts(plan.ops()) if isinstance(op, _NodeOp)]
    labels = _input_labels(ops)
    found: dict[str, NodeView] = {}
    for op in ops:
        node = _node(plan, op, ops, labels, unrolled=unrolled)
        known = found.get(node.id)
        found[node.id] = _joined(known, node) if known else node
    return tuple(found.values())


def edges_of(plan: Plan, *, unrolled: bool = False) -> tuple[Edge, ...]:
    """One edge for every pair of nodes between which fields or collected rows flow, in program order."""
    ops = [op for op in parts(plan.ops()) if isinstance(op, _NodeOp)]
    writer = {field: op for op in ops for field in op.writes}
    found: dict[tuple[str, str, bool], dict[str, None]] = {}
    for op in ops:
        for source, field in (*((writer[f], f) for f in op.reads if f in writer), *_rows_into(op, ops)):
            pair = node_id(source, unrolled=unrolled), node_id(op, unrolled=unrolled)
            again = not unrolled and _goes_on(scope_of_op(source), scope_of_op(op))
            found.setdefault((*pair, again), {})[leaf(field)] = None
    return tuple(Edge(a, b, tuple(fields), again) for (a, b, again), fields in found.items())


def layers_of(nodes: Iterable[NodeView]) -> tuple[tuple[NodeView, ...], ...]:
    """Nodes grouped by depth: those of one layer wait for nothing from each other. What ends there stands last."""
    rows: dict[int, list[NodeView]] = {}
    for node in nodes:
        rows.setdefault(node.depth, []).append(node)
    return tuple(tuple(sorted(rows[d], key=lambda n: n.role in (METRIC, OUTPUT))) for d in sorted(rows))


def roles_of(plan: Plan) -> dict[str, str]:
    """The role of each node, by its id in the plan."""
    return {node.id: node.role for node in nodes_of(plan, unrolled=True)}


def _rows_into(op: AnyOp, ops: Iterable[_NodeOp]) -> Iterator[tuple[CollectOp, str]]:
    """What a loop hands out comes from where it was put aside."""
    if isinstance(op, TakeOp):
        yield from ((c, f) for c in ops if isinstance(c, CollectOp) and c.into == op.collection for f in op.outputs)


def _goes_on(source: Scope, target: Scope) -> bool:
    return source.block == target.block and 0 < source.round < target.round


def node_id(op: AnyOp, *, unrolled: bool = False) -> str:
    """The id of the node that the op belongs to; the iterations of a loop have one id, or with `unrolled` so many."""
    name = op.node or op.id
    if isinstance(op, LoadOp):
        name = _within(scope_of_op(op).prefix, op.stream)
    return name if unrolled else general(name)


def node_ids(op: AnyOp, *, unrolled: bool = False) -> tuple[str, ...]:
    """The ids of all nodes whose work the op does: of a forward with several heads one for each."""
    return tuple(dict.fromkeys(node_id(part, unrolled=unrolled) for part in parts((op,))))


def _within(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _input_labels(ops: Iterable[_NodeOp]) -> dict[str, str]:
    """By stream: `input`, and from the second one of a block `input 2`."""
    streams: dict[str, dict[str, None]] = {}
    for op in ops:
        if isinstance(op, LoadOp):
            streams.setdefault(scope_of_op(op).block, {})[op.stream] = None
    return {s: "input" if i == 0 else f"input {i + 1}" for each in streams.values() for i, s in enumerate(each)}


def _node(plan: Plan, op: _NodeOp, ops: Iterable[_NodeOp], labels: dict[str, str], *, unrolled: bool) -> NodeView:
    scope = scope_of_op(op)
    block = scope.prefix if unrolled else scope.block
    name = node_id(op, unrolled=unrolled)
    role = _role(plan, op)
    return NodeView(
        id=name,
        label=_within(block, labels[op.stream]) if isinstance(op, LoadOp) else name,
        role=role,
        type="" if role in _OWN_ROLES.values() else _type(op).value,
        call=call_of(op, scope),
        reads=() if isinstance(op, MetricOp) else _seen(op.reads, scope, shared=not unrolled),
        writes=_seen(op.writes, _taken(op) or scope, shared=not unrolled),
        depth=_depth(plan, op, ops),
        block=block,
        when="" if block else guard_words(op.guard),
    )


def _taken(op: _NodeOp) -> Scope | None:
    return Scope(op.collection) if isinstance(op, TakeOp) else None


def _seen(names: Iterable[str], scope: Scope, *, shared: bool) -> tuple[str, ...]:
    """The fields as seen from `scope`; if `shared` by all iterations, whichever of them they are of."""
    own = [leaf(n) if shared and scope.block and scope_of(n).block == scope.block else inside(n, scope) for n in names]
    return tuple(dict.fromkeys(own))


def _joined(first: NodeView, other: NodeView) -> NodeView:
    """Another iteration of `first`."""
    reads = tuple(dict.fromkeys((*first.reads, *other.reads)))
    return replace(
        first, reads=reads, writes=tuple(dict.fromkeys((*first.writes, *other.writes))), times=first.times + 1
    )


def _depth(plan: Plan, op: _NodeOp, ops: Iterable[_NodeOp]) -> int:
    """As the compiler found it; an input stands right before its first reader."""
    if not isinstance(op, LoadOp):
        return plan.depths.get(op.node or "", 0)
    readers = [plan.depths.get(o.node or "", 0) for o in ops if not set(op.columns).isdisjoint(o.reads)]
    return min(readers, default=0) - 1


def _type(op: AnyOp) -> NodeType:
    if isinstance(op, TrainOp):
        return NodeType.MODEL_TRAIN
    return NodeType.MODEL_INFERENCE if isinstance(op, _ModelOp) else NodeType.COMPUTE


def _role(plan: Plan, op: _NodeOp) -> str:
    """The role given, else the usual one of its model's kind."""
    if type(op) in _OWN_ROLES:
        return _OWN_ROLES[type(op)]
    given = plan.roles.get(op.node or "")
    if given or not isinstance(op, _ModelOp):
        return given or NodeType.COMPUTE.value
    spec = plan.model(op.model)
    usual = {"value": Role.CRITIC, "reward": Role.REWARD}.get(spec.kind)
    return (usual or (Role.ACTOR if spec.trainable else Role.REFERENCE)).value
