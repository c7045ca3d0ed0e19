"""What a plan says about its graph is true: nodes, roles, edges and depths, against what its ops read and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from rldsl.compiler.ir import EdgeKind
from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    FreeOp,
    LoadOp,
    OffloadOp,
    OnloadOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    WaitOp,
    parts,
)
from rldsl.compiler.plan import Plan
from rldsl.compiler.verify.facts import WITH_MODEL, Facts, ranks_of, some
from rldsl.compiler.volume import measured

Edge = tuple[str, str, str]
_KINDS = frozenset(EdgeKind)
_OF_NO_NODE = (LoadOp, ReshardOp, SyncWeightsOp, FreeOp, SaveOp, WaitOp, OnloadOp, OffloadOp)


def description(facts: Facts) -> Iterator[str]:
    """A plan may leave its graph out; what it says of it must be so."""
    plan = facts.plan
    ops = tuple(parts(facts.ops))
    writers = {name: op for op in ops if not isinstance(op, ReshardOp) for name in op.writes}
    for field in plan.fields:
        writer = writers.get(field.name)
        makers = {"input", writer.id} if isinstance(writer, LoadOp) else {writer.node or writer.id} if writer else set()
        if writer is not None and field.producer not in makers:
            yield f"the field `{field.name}` is written by `{writer.id}`, not by `{field.producer}`"
    yield from _measures(plan)
    if not (plan.depths or plan.edges or plan.roles):
        return
    of_node = {op.node: op for op in ops if op.node is not None and not isinstance(op, _OF_NO_NODE)}
    yield from _nodes(facts, ops, of_node)
    yield from _edges(facts, set(_true_edges(facts, ops, writers)), set(of_node))
    yield from _depths(facts)


def _measures(plan: Plan) -> Iterator[str]:
    """Layouts and bytes of fields; a plan that says nothing of any field's says nothing wrong."""
    if not any(f.layouts or f.bytes for f in plan.fields):
        return
    for said, true in zip(plan.fields, measured(plan).fields, strict=True):
        if said.layouts != true.layouts:
            yield f"`{said.name}` lies on {some(list(true.layouts))}, and the plan says on {some(list(said.layouts))}"
        if said.bytes != true.bytes:
            yield f"`{said.name}` has {true.bytes} bytes, and the plan says {said.bytes}"


def _nodes(facts: Facts, ops: Sequence[AnyOp], of_node: Mapping[str, AnyOp]) -> Iterator[str]:
    depths = facts.plan.depths
    for op in ops:
        if op.node is None:
            if not isinstance(op, _OF_NO_NODE):
                yield f"`{op.id}` comes from no node"
        elif op.node not in depths:
            yield f"`{op.id}` comes from a node `{op.node}` that is not there"
        elif not isinstance(op, _OF_NO_NODE) and of_node[op.node] is not op:
            yield f"`{op.id}` and `{of_node[op.node].id}` come from one node"
    for node in depths:
        if node not in of_node:
            yield f"no op does the work of the node `{node}`"
    for node in facts.plan.roles.keys() - depths.keys():
        yield f"a role is given to a node `{node}` that is not there"


def _edges(facts: Facts, true: set[Edge], nodes: set[str]) -> Iterator[str]:
    said = set(facts.plan.edges)
    for source, target, carries in facts.plan.edges:
        if source not in nodes or target not in nodes:
            yield f"an edge leads from `{source}` to `{target}`, which are not both there"
        elif carries.partition(" ")[0] not in _KINDS:
            yield f"the edge from `{source}` to `{target}` is of no known kind: `{carries}`"
    if len(said) < len(facts.plan.edges):
        yield "an edge is there twice"
    wrong = {e for e in said if not e[2].startswith(EdgeKind.ORDER)} ^ true
    for edge in sorted(wrong):
        there = "there is no such edge" if edge in true else "an edge says so"
        yield f"`{edge[1]}` {'waits' if edge in true else 'does not wait'} for `{edge[0]}` ({edge[2]}), and {there}"
    for program in facts.plan.programs:
        place = {
            op.node: i for i, each in enumerate(program.ops) for op in parts((each,)) if not isinstance(op, _OF_NO_NODE)
        }
        # A function in the background is done where it is waited for; a transfer there does no node's work.
        called = {op.id for op in program.ops if isinstance(op, ComputeOp)}
        waits = ((i, op) for i, op in enumerate(program.ops) if isinstance(op, WaitOp) and op.begun in called)
        done = place | {op.node: i for i, op in waits}
        for source, target, carries in said:
            if source in place and target in place and done[source] >= place[target]:
                yield f"`{target}` runs before `{source}`, for which it waits: {carries} ({ranks_of(program)})"


def _true_edges(facts: Facts, ops: Sequence[AnyOp], writers: Mapping[str, AnyOp]) -> Iterator[Edge]:
    """Edges that follow from the ops: fields, rows of collections, and weights that a training changes."""
    users: dict[str, list[AnyOp]] = {}
    collecting: dict[str, list[AnyOp]] = {}
    for op in ops:
        if isinstance(op, _OF_NO_NODE) or op.node is None:
            continue
        for name in op.reads:
            writer = writers.get(name)
            if writer is not None and writer.node is not None:
                yield writer.node, op.node, f"{EdgeKind.FIELD} {name}"
        if isinstance(op, CollectOp):
            collecting.setdefault(op.into, []).append(op)
        if isinstance(op, TakeOp):
            for each in collecting.get(op.collection, ()):
                yield each.node or "", op.node, f"{EdgeKind.ROWS} {op.node}"
        if isinstance(op, WITH_MODEL):
            users.setdefault(facts.trunks[op.model], []).append(op)
    for same in users.values():
        trains = [op for op in same if isinstance(op, TrainOp)]
        for source, target in pairwise(trains):
            yield _weights(source, target)
        for op in same:
            if trains and not isinstance(op, TrainOp):
                yield _weights(op, trains[0])


def _weights(source: AnyOp, target: AnyOp) -> Edge:
    assert isinstance(source, WITH_MODEL)
    return source.node or "", target.node or "", f"{EdgeKind.WEIGHTS} {source.model}"


def _depths(facts: Facts) -> Iterator[str]:
    """A node is one deeper than the deepest of those it waits for."""
    depths = facts.plan.depths
    least = dict.fromkeys(depths, 0)
    for source, target, _ in facts.plan.edges:
        if source in depths and target in depths:
            least[target] = max(least[target], depths[source] + 1)
    wrong = [n for n, depth in depths.items() if depth != least[n]]
    if wrong:
        yield f"the depth is wrong of {some(wrong)}"
