"""Damage to groups of any ranks, their axes, what goes between them, and what is said of phases."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from bench.damage import MODEL_OPS, Damage, kind
from rldsl.compiler.ops import AnyOp, Move, ReshardOp, SyncWeightsOp
from rldsl.compiler.plan import Group, Phase, Plan, Program

# -- the ranks of a group


def _ranked(d: Damage, change: Any) -> Plan | None:
    """A group of ranks of its own with others."""
    group = d.one(g for g in d.plan.groups if g.ranks)
    ranks = group and change(group.ranks)
    if not ranks:
        return None
    return d.header(groups=tuple(replace(g, ranks=ranks) if g is group else g for g in d.plan.groups))


@kind("the ranks of a group shifted by one")
def _(d: Damage) -> Plan | None:
    by = d.rng.choice((-1, 1))
    return _ranked(d, lambda ranks: tuple((first + by, last + by) for first, last in ranks))


@kind("the ranks of a group split")
def _(d: Damage) -> Plan | None:
    def split(ranks: Any) -> Any:
        first, last = d.one(s for s in ranks if s[1] - s[0] > 1) or (0, 0)
        at, gap = d.rng.randrange(first + 1, last) if last else 0, d.rng.randrange(2)
        pieces = tuple(p for p in ((first, at), (at + gap, last)) if p[0] < p[1])
        return last and tuple(p for s in ranks for p in (pieces if s == (first, last) else (s,)))

    return _ranked(d, split)


@kind("the ranks of a group in another order, or twice")
def _(d: Damage) -> Plan | None:
    return _ranked(d, lambda ranks: d.rng.choice((ranks[::-1] if len(ranks) > 1 else ranks * 2, (*ranks, ranks[0]))))


@kind("the ranks of two groups exchanged")
def _(d: Damage) -> Plan | None:
    one, other = d.one(d.plan.groups), d.one(d.plan.groups)
    if one.spans(d.plan.world_size or 1) == other.spans(d.plan.world_size or 1):
        return None
    ranks = {one.name: other.ranks, other.name: one.ranks}
    return d.header(groups=tuple(replace(g, ranks=ranks.get(g.name, g.ranks)) for g in d.plan.groups))


# -- its axes


def _turned(d: Damage, group: Group) -> Group | None:
    """The same ranks with another axis, so that other rows lie on them."""
    world = d.plan.world_size
    if world is None:
        return None
    axis = d.rng.choice(("tp", "cp", "pp"))
    sizes = [n for n in (1, 2, 3, 4) if n != getattr(group, axis)]
    return replace(group, name="turned", **{axis: d.rng.choice(sizes)})


@kind("another axis of the group of an op")
def _(d: Damage) -> Plan | None:
    op = d.op()
    return _regrouped(d, op, "group")


@kind("another axis at an end of a move")
def _(d: Damage) -> Plan | None:
    return _regrouped(d, d.op(ReshardOp), d.rng.choice(("source", "target")))


@kind("another axis at an end of a transfer")
def _(d: Damage) -> Plan | None:
    return _regrouped(d, d.op(SyncWeightsOp), d.rng.choice(("source", "target")))


def _regrouped(d: Damage, op: AnyOp | None, end: str) -> Plan | None:
    # How the ranks are numbered that only meet in a move or a transfer is of no matter.
    if op is None or (end == "group" and isinstance(op, ReshardOp | SyncWeightsOp)):
        return None
    group = _turned(d, d.plan.group(getattr(op, end)))
    made = group and d.changed(op, **{end: "turned"})
    return made and replace(made, groups=(*made.groups, group))


@kind("axes that do not fill a group")
def _(d: Damage) -> Plan | None:
    axis = d.rng.choice(("tp", "cp", "pp", "ep"))
    return d.spec("groups", lambda g: {axis: d.rng.choice((0, -1, 7, 2 * g.size(d.plan.world_size or 1) + 1))})


# -- what goes between groups


@kind("a move of another kind")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    return d.changed(op, kind=d.other(Move, op.kind)) if op else None


@kind("the ends of a transfer exchanged")
def _(d: Damage) -> Plan | None:
    op = d.op(SyncWeightsOp)
    return d.changed(op, source=op.target, target=op.source) if op and op.source != op.target else None


@kind("another end of a move or of a transfer")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp, SyncWeightsOp)
    end = d.rng.choice(("source", "target"))
    group = op and d.other((g.name for g in d.plan.groups), getattr(op, end))
    return d.changed(op, **{end: group}) if group else None


@kind("a field left behind by a move, or not")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    name = op and d.one((*op.fields, "ghost"))
    if op is None:
        return None
    return d.changed(op, keeps=tuple(n for n in op.keeps if n != name) if name in op.keeps else (*op.keeps, name))


@kind("a move of a field more or less")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    if op is None:
        return None
    more = d.other((f.name for f in d.plan.fields if f.name not in op.fields), "")
    fields = d.rng.choice((op.fields[1:], (*op.fields, more) if more else op.fields[:-1]))
    return d.changed(op, fields=fields, keeps=tuple(n for n in op.keeps if n in fields))


@kind("a move or a transfer among more ranks, or fewer")
def _(d: Damage) -> Plan | None:
    return _elsewhere(d, d.op(ReshardOp, SyncWeightsOp))


@kind("a move made twice")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    return op and d.followed(d.one(o for o in d.plan.ops() if o.group == op.group), replace(op, id="again"))


# -- which ranks run an op


@kind("an op in the programs of another group")
def _(d: Damage) -> Plan | None:
    return _elsewhere(d, d.op())


def _elsewhere(d: Damage, op: AnyOp | None) -> Plan | None:
    """An op on another group, in exactly the programs of its ranks: after all that stands before it in any program."""
    group = op and d.other(d.plan.groups, d.plan.group(op.group))
    if op is None or group is None:
        return None
    order = [o.id for o in d.plan.ops()]
    behind = set(order[order.index(op.id) :])
    made = replace(op, group=group.name)

    def placed(program: Program) -> Program:
        ops = tuple(o for o in program.ops if o.id != op.id)
        if group.index(program.first, d.plan.world_size or 1) is None:
            return replace(program, ops=ops)
        at = next((i for i, o in enumerate(ops) if o.id in behind), len(ops))
        return replace(program, ops=(*ops[:at], made, *ops[at:]))

    return d.header(programs=tuple(map(placed, d.plan.programs)))


@kind("two collectives of different groups swapped on one rank class")
def _(d: Damage) -> Plan | None:
    program = d.one(d.plan.programs)
    there = [op for op in program.ops if op.collective] if program else []
    one = d.one(there)
    return one and d.swapped(one, d.one(o for o in there if o.group != one.group), program)


@kind("a collective put behind the next of another group on one rank class")
def _(d: Damage) -> Plan | None:
    program = d.one(d.plan.programs)
    places = [i for i, op in enumerate(program.ops) if op.collective] if program else []
    pairs = [(i, j) for i, j in pairwise(places) if program.ops[i].group != program.ops[j].group]
    if not pairs:
        return None
    (i, j), ops = d.one(pairs), program.ops
    moved = (*ops[:i], *ops[i + 1 : j + 1], ops[i], *ops[j + 1 :])
    return d.mapped(lambda _: moved, program)


# -- phases


@kind("a phase on another group")
def _(d: Damage) -> Plan | None:
    phase = d.one(d.plan.phases)
    layouts = {g.name: g.layout(d.plan.world_size) for g in d.plan.groups}
    group = phase and d.one(n for n, layout in layouts.items() if layout != layouts[phase.group])
    return group and _phased(d, phase, group=group)


@kind("a phase with an axis more")
def _(d: Damage) -> Plan | None:
    phase = d.one(d.plan.phases)
    group = phase and _turned(d, d.plan.group(phase.group))
    made = group and _phased(d, phase, group="turned")
    return made and replace(made, groups=(*made.groups, group))


@kind("a phase by an engine that is not there, or has not its axes")
def _(d: Damage) -> Plan | None:
    phase = d.one(d.plan.phases)
    if phase is None:
        return None
    axes = d.plan.group(phase.group)
    simple = "hf" if phase.phase is Phase.GENERATE else "fsdp"
    return _phased(d, phase, engine="ghost" if axes.copies == 1 else simple)


@kind("a phase of another model, or another one")
def _(d: Damage) -> Plan | None:
    phase = d.one(d.plan.phases)
    model = phase and d.other((m.name for m in d.plan.models), phase.model)
    change = d.rng.choice(({"model": model or "ghost"}, {"phase": d.other(Phase, phase.phase)})) if phase else {}
    return phase and _phased(d, phase, **change)


@kind("a phase left out, or twice")
def _(d: Damage) -> Plan | None:
    phase = d.one(d.plan.phases)
    if phase is None or len(d.plan.phases) == 1:
        return None
    rest = tuple(p for p in d.plan.phases if p is not phase)
    return d.header(phases=d.rng.choice((rest, (*d.plan.phases, phase))))


def _phased(d: Damage, spec: Any, /, **fields: Any) -> Plan:
    return d.header(phases=tuple(replace(p, **fields) if p is spec else p for p in d.plan.phases))


@kind("a model's op on other ranks, wherever it stands")
def _(d: Damage) -> Plan | None:
    return _elsewhere(d, d.op(*MODEL_OPS))
