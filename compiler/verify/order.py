"""No rank waits for ever: each op is in the programs of exactly its group, and all ranks agree on one order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from rldsl.compiler.ops import AnyOp, ReshardOp, SyncWeightsOp
from rldsl.compiler.plan import Program
from rldsl.compiler.ranks import move_kind, union
from rldsl.compiler.verify.facts import Facts, ranks_of


def order(facts: Facts) -> Iterator[str]:
    """Coverage of the ranks, membership, equality of what the ranks of a group run, and one order of collectives."""
    yield from _coverage(facts)
    yield from _members(facts)
    yield from _crossed(facts)


def _coverage(facts: Facts) -> Iterator[str]:
    programs, world = facts.plan.programs, facts.plan.world_size
    expected: int | None = 0
    for program in programs:
        if program.first != expected or (program.last is not None and program.last <= program.first):
            yield f"the rank classes do not follow each other: {ranks_of(program)} where {expected} comes next"
        expected = program.last
    if not programs or expected != world:
        yield f"the programs cover {expected} ranks of {world}"
    for program in programs:
        seen: set[str] = set()
        for op in program.ops:
            if op.id in seen:
                yield f"`{op.id}` stands twice in one program ({ranks_of(program)})"
            seen.add(op.id)


def _members(facts: Facts) -> Iterator[str]:
    """An op stands, the same, in the programs of all ranks of its group, and in no other."""
    bodies: dict[str, AnyOp] = {}
    for program in facts.plan.programs:
        for op in program.ops:
            if bodies.setdefault(op.id, op) != op:
                yield f"`{op.id}` differs between rank classes ({ranks_of(program)})"
    for program in facts.plan.programs:
        where = f" ({ranks_of(program)})"
        yield from (problem + where for problem in _membership(facts, program, bodies.values()))
    for op in bodies.values():
        if isinstance(op, ReshardOp | SyncWeightsOp):
            yield from _ends(op, facts)


def _ends(op: ReshardOp | SyncWeightsOp, facts: Facts) -> Iterator[str]:
    """What goes between groups is entered by the ranks of both, and by no others."""
    ends, whole = [facts.layouts[op.source].ranks, facts.layouts[op.target].ranks], facts.layouts[op.group].ranks
    both = None if None in ends else union(*(ranks for ranks in ends if ranks is not None))
    if whole != both:
        yield f"`{op.id}` runs on `{op.group}`, which is not `{op.source}` and `{op.target}` together"
    if isinstance(op, ReshardOp):
        kind = move_kind(facts.plan.group(op.source), facts.plan.group(op.target), facts.plan.world_size)
        if op.kind is not kind:
            yield f"`{op.id}` says {op.kind}, and between these groups it is {kind}"


def _membership(facts: Facts, program: Program, ops: Iterable[AnyOp]) -> Iterator[str]:
    inside = {g: facts.member(program, g) for g in facts.layouts}
    for group, layout in facts.layouts.items():
        cuts = [end for span in layout.ranks or () for end in span]
        if any(program.first < cut and (program.last is None or cut < program.last) for cut in cuts):
            yield f"`{group}` begins or ends in the middle of a rank class"
    there = {op.id for op in program.ops}
    for op in ops:
        if op.id in there and not inside[op.group]:
            yield f"`{op.id}` is in a program whose ranks are not in `{op.group}`"
        if op.id not in there and inside[op.group]:
            yield f"`{op.id}` is missing, though the ranks are in `{op.group}`"


def _crossed(facts: Facts) -> Iterator[str]:
    """Collectives that no one order of all has room for: the union of the programs' orders has a cycle.

    Taken away one by one as long as one has nothing before it in any program; what is left waits for each other.
    """
    before: dict[str, int] = {}
    follows: dict[str, list[str]] = {}
    for program in facts.plan.programs:
        chain = [op.id for op in program.ops if op.collective]
        for name in chain:
            before.setdefault(name, 0)
        for one, next_one in pairwise(chain):
            follows.setdefault(one, []).append(next_one)
            before[next_one] += 1
    free = [name for name, count in before.items() if count == 0]
    while free:
        name = free.pop()
        del before[name]
        for later in follows.get(name, ()):
            before[later] -= 1
            if before[later] == 0:
                free.append(later)
    if before:
        # What only comes after a ring, and before nothing that is left, is no part of it.
        ring = " -> ".join(sorted(n for n in before if any(f in before for f in follows.get(n, ()))))
        yield f"ranks enter these collectives in different orders and would wait for ever: {ring}"
