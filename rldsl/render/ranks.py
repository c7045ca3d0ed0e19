"""Which ranks run something, and as which of their ops."""

from __future__ import annotations

from rldsl.compiler.ops import AnyOp
from rldsl.compiler.plan import Plan, Program
from rldsl.compiler.ranks import words
from rldsl.render.facts import Facts


def ranks_of(program: Program, world_size: int | None) -> str:
    """`every rank`, `rank 0`, `ranks 0 to 3`, `ranks 4 and up`."""
    if program.first == 0 and program.last in (None, world_size):
        return "every rank"
    if program.last is None:
        return f"ranks {program.first} and up"
    if program.last == program.first + 1:
        return f"rank {program.first}"
    return f"ranks {program.first} to {program.last - 1}"


def places_words(facts: Facts, op: AnyOp) -> str:
    """`op 3 of ranks 0 to 1, op 2 of ranks 2 to 3`: the numbers that the program's table has."""
    world = facts.plan.world_size
    spots = {(p.first, p.last): p.number for p in facts.places[op.id]}
    known = [(spots[p.first, p.last], p) for p in facts.plan.programs if (p.first, p.last) in spots]
    return ", ".join(f"op {number} of {ranks_of(program, world)}" for number, program in known)


def group_words(plan: Plan, name: str) -> str:
    """`all ranks`, `ranks 0 to 1`, `ranks 4 to 7, tp = 2`."""
    group = plan.group(name)
    axes = [f"{axis} = {n}" for axis in ("tp", "cp", "pp", "ep") if (n := getattr(group, axis)) > 1]
    return ", ".join([words(group.ranks) if group.ranks else "all ranks", *axes])
