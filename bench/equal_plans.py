"""Whether two plans do the same, shown by execution and rewriting, with nothing of the verifier's.

The programs of two plans are equal when each class of ranks has the same ops, up to names, in orders that differ only
by exchanges of neighbours that touch nothing in common (a Mazurkiewicz trace; compared by its lexicographic normal
form), and when the ranks, walked in lock step, get through all their collectives. A metric may stand on other ranks,
where these hold the same rows.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferOp,
    LoadOp,
    MetricOp,
    OutputOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.plan import Plan, Program

Touch = tuple[str, bool]  # a thing, and whether it is changed


def why_equal(one: Plan, other: Plan) -> str | None:
    """Why two plans do the same, or None where that cannot be shown."""
    if one == other:
        return "the same plan"
    if _header(one) != _header(other) or not _gets_through(other):
        return None
    cuts = sorted(_cuts(one) | _cuts(other))
    if not _same_programs(one, other, cuts):
        logged = _logged(one, cuts)
        same = logged is not None and logged == _logged(other, cuts)
        alike = same and _same_programs(_unlogged(one), _unlogged(other), cuts)
        return "the same but for which ranks log a number" if alike else None
    same_order = all(
        [_body(one, op) for op in a.ops] == [_body(other, op) for op in b.ops]
        for a, b in zip(one.programs, other.programs, strict=False)
    )
    return "the same but for names and provenance" if same_order else "the same but for the order of unrelated ops"


def _same_programs(one: Plan, other: Plan, ranks: Sequence[int]) -> bool:
    """Whether each of the ranks does the same."""
    pairs = ((_program(one, rank), _program(other, rank)) for rank in ranks)
    return all(a is not None and b is not None and _normal(one, a) == _normal(other, b) for a, b in pairs)


def _unlogged(plan: Plan) -> Plan:
    """Without metrics."""
    bare = (tuple(op for op in p.ops if not isinstance(op, MetricOp)) for p in plan.programs)
    programs = tuple(msgspec.structs.replace(p, ops=ops) for p, ops in zip(plan.programs, bare, strict=True))
    return msgspec.structs.replace(plan, programs=programs)


def _logged(plan: Plan, ranks: Sequence[int]) -> set[str] | None:
    """The metrics without their ranks, each with how often was collected what its guard asks about.

    A row is written once in a step, and of ranks that hold copies the first counts it: so a number is the same on any
    group whose ranks all hold the field's rows, in that group's layout, where the metric stands. Else None.
    """
    found: set[str] = set()
    for rank in ranks:
        program = _program(plan, rank)
        wanted = {op.id for op in plan.ops() if isinstance(op, MetricOp) and _is_in(plan, rank, op.group)}
        if program is None or wanted != {op.id for op in program.ops if isinstance(op, MetricOp)}:
            return None
        held: set[tuple[str, str]] = set()
        collected: Counter[str] = Counter()
        for op in program.ops:
            if isinstance(op, MetricOp):
                if not {(name, _held(plan, op.group)) for name in op.reads} <= held:
                    return None
                times = collected[op.guard.until or ""] if op.guard is not None else 0
                found.add(f"{times} {_body(plan, msgspec.structs.replace(op, group=plan.groups[0].name))}")
            elif isinstance(op, CollectOp):
                collected[op.into] += 1
            _hold(plan, rank, op, held)
    return found


def _hold(plan: Plan, rank: int, op: AnyOp, held: set[tuple[str, str]]) -> None:
    """What a rank holds after an op, as fields and layouts."""
    if isinstance(op, ReshardOp):
        held -= {(name, _held(plan, op.source)) for name in op.fields if name not in op.keeps}
        if _is_in(plan, rank, op.target):
            held |= {(name, _held(plan, op.target)) for name in op.fields}
        return
    writer = next((o for o in plan.ops() if o.id == op.begun), None) if isinstance(op, WaitOp) else op
    if writer is not None and not (writer is op and isinstance(op, ComputeOp) and op.background):
        held |= {(name, _held(plan, op.group)) for name in writer.writes}
    if isinstance(op, FreeOp):
        held -= {(name, _held(plan, op.group)) for name in op.fields}


def _is_in(plan: Plan, rank: int, group: str) -> bool:
    return plan.world_size is None or plan.group(group).index(rank, plan.world_size) is not None


def _header(plan: Plan) -> dict[str, Any]:
    """All but programs, provenance, and the names that only ops use; declarations in no order."""
    body: dict[str, Any] = json.loads(msgspec.json.encode(plan))
    trained = {op.model for op in plan.ops() if isinstance(op, TrainOp)}
    for name in ("programs", "dropped", "source", "groups"):
        body.pop(name)
    if plan.world_size is not None:
        body.pop("divides")  # it says on how many ranks a plan may run that does not fix that
    for model in body["models"]:
        # The runtime loads a model frozen unless it is trainable and some op trains it.
        model["trainable"] = model.get("trainable", True) and model["name"] in trained
    for field in body["fields"]:
        field["layouts"] = [_layout(plan, group) for group in field["layouts"]]
    for phase in body["phases"]:
        phase["group"] = _layout(plan, phase["group"])
    for name in ("models", "fields", "functions", "edges", "phases"):
        body[name] = sorted(json.dumps(each, sort_keys=True) for each in body.get(name, ()))
    return body


def _cuts(plan: Plan) -> set[int]:
    """The first rank of every stretch of ranks that could differ."""
    ends = {p.last for p in plan.programs} | {end for g in plan.groups for span in g.ranks for end in span}
    inside = {e for e in ends if e is not None and (plan.world_size is None or e < plan.world_size)}
    return {0, *(p.first for p in plan.programs), *inside}


def _program(plan: Plan, rank: int) -> Program | None:
    found = [p for p in plan.programs if p.covers(rank)]
    return found[0] if len(found) == 1 else None


def _layout(plan: Plan, name: str) -> Any:
    group = plan.group(name)
    ranks = group.ranks if plan.world_size is None else group.spans(plan.world_size)
    return [ranks, group.tp, group.cp, group.pp, group.ep]


def _body(plan: Plan, op: AnyOp) -> str:
    """An op without its name and provenance, its groups as numbers of ranks and its stream as the rounds in it."""
    body: dict[str, Any] = json.loads(msgspec.json.encode(op))
    for name in ("id", "because", "by"):
        body.pop(name, None)
    for name in ("group", "source", "target") if isinstance(op, ReshardOp | SyncWeightsOp) else ("group",):
        body[name] = _layout(plan, getattr(op, name))
    if isinstance(op, ReshardOp | SyncWeightsOp):
        body["group"] = body["group"][0]  # those who meet: how they are numbered decides nothing
    if isinstance(op, LoadOp):
        body["stream"] = sorted(o.columns for o in plan.ops() if isinstance(o, LoadOp) and o.stream == op.stream)
    if isinstance(op, FreeOp):
        body["fields"] = sorted(op.fields)
    if isinstance(op, WaitOp):
        body["begun"] = sorted(name for o in plan.ops() if o.id == op.begun for name in o.writes)
        body["holds"] = sorted(set(op.holds))
    return json.dumps(body, sort_keys=True)


def _touched(plan: Plan, op: AnyOp) -> Iterator[Touch]:
    """Everything an op works on: two ops that touch one thing, which one of them changes, keep their order."""
    yield from _rows(plan, op)
    if op.guard is not None and op.guard.until is not None and not isinstance(op, FreeOp):
        yield f"collection {op.guard.until}", False
    if isinstance(op, CollectOp | TakeOp):
        yield f"collection {op.into if isinstance(op, CollectOp) else op.collection}", True
    if isinstance(op, LoadOp):
        yield f"stream {op.stream}", True
    if isinstance(op, WaitOp):
        begun = (o for o in plan.ops() if o.id == op.begun)
        yield from ((f"field {name} {_held(plan, o.group)}", True) for o in begun for name in o.writes)
    if isinstance(op, OutputOp):
        yield f"file {op.name}", True
    if isinstance(op, GenerateOp | ExtendOp | InferOp | TrainOp | SyncWeightsOp | SaveOp):
        yield f"trunk {plan.model(op.model).shares or op.model}", isinstance(op, TrainOp)
    if isinstance(op, SyncWeightsOp):
        yield f"engine {op.model} {op.staleness}", True
    if isinstance(op, GenerateOp | ExtendOp):
        yield f"engine {op.model} {op.staleness}", False


def _rows(plan: Plan, op: AnyOp) -> Iterator[Touch]:
    """The rows that an op reads, writes, or drops: a field in each layout is a thing of its own."""
    if isinstance(op, ReshardOp):
        source, target = _held(plan, op.source), _held(plan, op.target)
        yield from ((f"field {name} {source}", name not in op.keeps) for name in op.fields)
        yield from ((f"field {name} {target}", True) for name in op.fields)
        return
    there = _held(plan, op.group)
    yield from ((f"field {name} {there}", False) for name in op.reads)
    for name in (*op.writes, *(op.fields if isinstance(op, FreeOp) else ())):
        yield f"field {name} {there}", True


def _held(plan: Plan, group: str) -> str:
    return str(plan.group(group).layout(plan.world_size))


def _normal(plan: Plan, program: Program) -> list[str]:
    """The least order of the ops, by what they are, that keeps the order of those with something in common."""
    bodies = [_body(plan, op) for op in program.ops]
    follows: list[set[int]] = [set() for _ in bodies]
    waits = [0] * len(bodies)
    changed: dict[str, int] = {}
    read: dict[str, list[int]] = {}
    for i, op in enumerate(program.ops):
        before: set[int] = set()
        for thing, changes in dict.fromkeys(_touched(plan, op)):
            before |= {changed[thing]} if thing in changed else set()
            before |= set(read.get(thing, ())) if changes else set()
            if changes:
                changed[thing], read[thing] = i, []
            else:
                read.setdefault(thing, []).append(i)
        for j in before - {i}:
            follows[j].add(i)
            waits[i] += 1
    ready = [(bodies[i], i) for i, count in enumerate(waits) if not count]
    heapq.heapify(ready)
    made = []
    while ready:
        body, i = heapq.heappop(ready)
        made.append(body)
        for j in follows[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, (bodies[j], j))
    return made


def _gets_through(plan: Plan) -> bool:
    """Walks one rank of every class: a collective is passed when all of its group stand before it."""
    ranks = sorted(_cuts(plan))
    left: dict[int, list[AnyOp]] = {}
    for rank in ranks:
        program = _program(plan, rank)
        if program is None:
            return False
        left[rank] = [op for op in reversed(program.ops) if op.collective]
    while any(left.values()):
        for rank in ranks:
            if not left[rank]:
                continue
            op = left[rank][-1]
            spans = plan.group(op.group).ranks
            members = [r for r in ranks if not spans or any(first <= r < last for first, last in spans)]
            if rank in members and all(left[r] and left[r][-1].id == op.id for r in members):
                for each in members:
                    left[each].pop()
                break
        else:
            return False
    return True
