"""Proofs about modules between passes, and about finished plans whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from rldsl.compiler.dag import in_order
from rldsl.compiler.ir import EdgeKind, Graph, Module
from rldsl.compiler.plan import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    InferOp,
    Plan,
    Program,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
)
from rldsl.diagnostics import Diagnostic


class InvalidModuleError(AssertionError):
    """A pass left the module in a state that no pass may leave: a bug of ours."""


def verify_module(module: Module, after: str, known: Graph | None = None) -> None:
    """What must hold after any pass. Raises InvalidModuleError naming the pass.

    `known` is a graph for which this was proved: when the pass has left it as it was, only the rest is looked at.
    """
    of_graph = () if module.graph is known else _graph_problems(module)
    for problem in chain(of_graph, _module_problems(module)):
        raise InvalidModuleError(f"after {after}: {problem}")


def _graph_problems(module: Module) -> Iterator[str]:
    graph = module.graph
    if len({n.id for n in graph.nodes}) < len(graph.nodes):
        yield "node ids are not unique"
    if not all(e.source in graph.node_of and e.target in graph.node_of for e in graph.edges):
        yield "an edge leads nowhere"
    edges = {(e.source, e.target, e.carries) for e in graph.edges if e.kind is EdgeKind.FIELD}
    if graph.edges:
        for node in graph.nodes:
            for name in node.reads:
                producer = graph.producer_of.get(name)
                if producer is not None and (producer.id, node.id, name) not in edges:
                    yield f"`{node.id}` reads `{name}` without an edge"
        if graph.has_cycle:
            yield "the graph has a cycle"


def _module_problems(module: Module) -> Iterator[str]:
    graph = module.graph
    written = [f for n in graph.nodes for f in n.outputs if f in module.fields]
    if len(written) != len(set(written)):
        yield "a field has two producers"
    if module.order:
        place = {n: i for i, n in enumerate(module.order)}
        if place.keys() != graph.node_of.keys():
            yield "the order does not hold every node"
        elif any(place[e.source] >= place[e.target] for e in graph.edges):
            yield "the order breaks an edge"
    op_ids = [op.id for op in module.ops]
    if len(op_ids) != len(set(op_ids)):
        yield "op ids are not unique"


def verify_plan(plan: Plan) -> list[Diagnostic]:
    """Everything wrong with a finished plan, as RL0505; an empty list is the proof.

    Proved, without running it: every name is known; the programs cover the ranks; each read is of a field that is
    defined, resident and lies on the group that reads it; nothing is freed early, written twice or left over; each
    result has a reader; a rollout follows a weight transfer; and no rank waits for ever: all collectives of all
    programs agree on one order, and each is in the program of exactly the ranks of its group.
    Assumed: an op returns or raises, and ranks run their program in order.
    """
    problems = [*_names(plan), *_coverage(plan)]
    if not problems:
        problems = [*_collectives(plan), *_unused(plan), *_guards(plan), *_collections(plan)]
        for program in plan.programs:
            problems += _Residency(plan, program).problems()
    return [Diagnostic(code="RL0505", message=p, fix="compile it again from the source") for p in problems]


def _names(plan: Plan) -> Iterator[str]:
    groups = {g.name for g in plan.groups}
    models, functions, fields = (
        {m.name for m in plan.models},
        {f.name for f in plan.functions},
        {f.name for f in plan.fields},
    )
    for op in plan.ops():
        for group in (op.group, *((op.source, op.target) if isinstance(op, ReshardOp) else ())):
            if group not in groups:
                yield f"`{op.id}` names a group `{group}` that is not there"
        model = op.model if isinstance(op, GenerateOp | ExtendOp | InferOp | TrainOp | SyncWeightsOp | SaveOp) else None
        if model is not None and model not in models:
            yield f"`{op.id}` names a model `{model}` that is not there"
        function = op.function if isinstance(op, ComputeOp) else op.loss if isinstance(op, TrainOp) else None
        if function is not None and function not in functions:
            yield f"`{op.id}` names a function `{function}` that is not there"
        freed = op.fields if isinstance(op, FreeOp) else ()
        for name in (*op.reads, *op.writes, *freed):
            if name not in fields:
                yield f"`{op.id}` names a field `{name}` that is not there"


def _coverage(plan: Plan) -> Iterator[str]:
    expected = 0
    for index, program in enumerate(plan.programs):
        if program.first != expected or (program.last is not None and program.last <= program.first):
            yield f"the rank classes do not follow each other: one begins at {program.first}, not {expected}"
        if program.last is None and index != len(plan.programs) - 1:
            yield "a rank class without an end is not the last"
        expected = program.last if program.last is not None else expected
    end = plan.programs[-1].last if plan.programs else 0
    if not plan.programs or end != plan.world_size:
        yield f"the programs cover {end} ranks of {plan.world_size}"
    ids = [(op.id, p.first) for p in plan.programs for op in p.ops]
    if len(ids) != len(set(ids)):
        yield "an op stands twice in one program"
    if plan.world_size is not None and (plan.divides < 1 or plan.divides % plan.world_size):
        yield f"{plan.world_size} ranks do not divide {plan.divides}"


def _member(plan: Plan, program: Program, group: str) -> bool:
    size = next(g.size for g in plan.groups if g.name == group)
    return size is None or program.first < size


def _collectives(plan: Plan) -> Iterator[str]:
    """One order for all: an op on exactly its group's ranks, the same op everywhere, and no two ranks cross."""
    collective: dict[str, None] = {}
    edges: list[tuple[str, str]] = []
    bodies: dict[str, AnyOp] = {}
    for program in plan.programs:
        previous: str | None = None
        for op in program.ops:
            if bodies.setdefault(op.id, op) != op:
                yield f"`{op.id}` differs between rank classes"
            if not _member(plan, program, op.group):
                yield f"`{op.id}` is in the program of rank {program.first}, which is not in `{op.group}`"
            if op.collective:
                collective[op.id] = None
                if previous is not None:
                    edges.append((previous, op.id))
                previous = op.id
    for program in plan.programs:
        there = {op.id for op in program.ops}
        for op in bodies.values():
            if op.id not in there and _member(plan, program, op.group):
                yield f"rank {program.first} is in `{op.group}` but its program lacks `{op.id}`"
    if len(in_order(collective, edges)) < len(collective):
        ring = _ring(edges)
        yield f"ranks enter these collectives in different orders and would wait for ever: {ring}"


def _ring(edges: list[tuple[str, str]]) -> str:
    import networkx as nx

    return " -> ".join(sorted(next(c for c in nx.strongly_connected_components(nx.DiGraph(edges)) if len(c) > 1)))


def _unused(plan: Plan) -> Iterator[str]:
    read = {f for op in plan.ops() for f in op.reads if not isinstance(op, ReshardOp)}
    for op in plan.ops():
        if isinstance(op, ReshardOp):
            continue
        for name in op.writes:
            if name not in read:
                yield f"`{op.id}` computes `{name}`, which nothing reads"


def _guards(plan: Plan) -> Iterator[str]:
    """What was written under a condition is read and dropped under the same one."""
    written = {name: op.guard for op in plan.ops() if not isinstance(op, ReshardOp) for name in op.writes}
    for op in plan.ops():
        for name in (*op.reads, *(op.fields if isinstance(op, FreeOp) else ())):
            guard = written.get(name)
            if guard is not None and guard != op.guard:
                yield f"`{op.id}` reads `{name}`, which is only there when {_shown(guard)}"


def _shown(guard: Guard) -> str:
    return f"the step divides by {guard.every}" if guard.every else f"`{guard.until}` is not full"


def _collections(plan: Plan) -> Iterator[str]:
    """Each collection is filled, then taken once; what waits for it to be full comes in between."""
    filled: dict[str, CollectOp] = {}
    taken: set[str] = set()
    for op in plan.ops():
        until = op.guard.until if op.guard is not None else None
        if until is not None and until not in filled and not isinstance(op, FreeOp):
            yield f"`{op.id}` waits for the collection `{until}`, which nothing has begun to fill"
        if isinstance(op, CollectOp):
            first = filled.setdefault(op.into, op)
            if op.into in taken:
                yield f"`{op.id}` adds to the collection `{op.into}` after it was taken"
            if first.batch != op.batch or list(first.fields.values()) != list(op.fields.values()):
                yield f"`{op.id}` adds other fields to `{op.into}` than `{first.id}` does"
        if isinstance(op, TakeOp):
            if op.collection not in filled or op.collection in taken:
                yield f"`{op.id}` takes the collection `{op.collection}`, which is not there"
            elif filled[op.collection].batch != op.batch or set(filled[op.collection].fields.values()) != {*op.outputs}:
                yield f"`{op.id}` takes other fields or another number of prompts than `{op.collection}` holds"
            taken.add(op.collection)
    for name in filled.keys() - taken:
        yield f"nothing takes the collection `{name}`"


@dataclass
class _Residency:
    """Walks one program with the fields that its ranks hold, and on which group each lies."""

    plan: Plan
    program: Program
    held: dict[str, str] = field(default_factory=dict)
    synced: set[tuple[str, int]] = field(default_factory=set)
    sampled: list[GenerateOp | ExtendOp] = field(default_factory=list)

    def problems(self) -> list[str]:
        found = [p for op in self.program.ops for p in self.step(op)]
        found += [f"`{name}` is never freed" for name in self.held]
        return [f"{p} (rank {self.program.first})" for p in found]

    def step(self, op: AnyOp) -> Iterator[str]:
        if isinstance(op, ReshardOp):
            yield from self.reshard(op)
            return
        for name in dict.fromkeys(op.reads):
            yield from self.check_read(op, name, op.group)
        yield from self.weights(op)
        for name in op.fields if isinstance(op, FreeOp) else ():
            yield from self.check_read(op, name, op.group)
            self.held.pop(name, None)
        for name in op.writes:
            if name in self.held:
                yield f"`{op.id}` writes `{name}` while it is still held"
            self.held[name] = op.group

    def weights(self, op: AnyOp) -> Iterator[str]:
        """A rollout follows the transfer of the weights it wants: before it, or of a step before after it."""
        if isinstance(op, SyncWeightsOp):
            self.synced.add((op.model, op.staleness))
        if isinstance(op, TrainOp):
            trunks = {m.name: m.shares or m.name for m in self.plan.models}
            stale = {(m, s) for m, s in self.synced if trunks[m] == trunks[op.model]}
            self.synced -= stale
            late = {r.id for r in self.sampled if trunks[r.model] == trunks[op.model] and (r.model, 1) not in stale}
            self.sampled = [r for r in self.sampled if trunks[r.model] != trunks[op.model]]
            for each in sorted(late):
                yield f"`{each}` wants the weights of the step before, and no transfer follows it before `{op.id}`"
        if isinstance(op, GenerateOp | ExtendOp):
            if op.staleness:
                self.sampled.append(op)
            elif (op.model, 0) not in self.synced:
                yield f"`{op.id}` generates with weights of `{op.model}` that no transfer brought up to date"

    def check_read(self, op: AnyOp, name: str, group: str) -> Iterator[str]:
        if name not in self.held:
            yield f"`{op.id}` reads `{name}`, which is not there"
        elif self.held[name] != group:
            yield f"`{op.id}` reads `{name}` on `{group}`, but its rows lie on `{self.held[name]}`"

    def reshard(self, op: ReshardOp) -> Iterator[str]:
        for name in op.fields:
            if _member(self.plan, self.program, op.source):
                yield from self.check_read(op, name, op.source)
                self.held.pop(name, None)
            if _member(self.plan, self.program, op.target):
                self.held[name] = op.target
