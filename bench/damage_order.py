"""Damage to which ops there are, in which order, on which ranks."""

from __future__ import annotations

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.ops import (
    CollectOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.plan import Plan

# -- which ops there are

kind("an op dropped on all ranks")(lambda d: d.dropped(d.op()))
kind("a reshard dropped")(lambda d: d.dropped(d.op(ReshardOp)))
kind("a weight transfer dropped")(lambda d: d.dropped(d.op(SyncWeightsOp)))
kind("a save dropped")(lambda d: d.dropped(d.op(SaveOp)))
kind("a free dropped")(lambda d: d.dropped(d.op(FreeOp)))


@kind("an op dropped on one rank class")
def _(d: Damage) -> Plan | None:
    found = d.shared()
    return found and d.dropped(found[1], found[0])


@kind("an op that another rank class lacks")
def _(d: Damage) -> Plan | None:
    every = {op.id: op for op in d.plan.ops()}
    program = d.one(d.plan.programs)
    op = program and d.one(every[i] for i in sorted(every.keys() - {o.id for o in program.ops}))
    return None if op is None else d.mapped(lambda ops: (*ops, op), program)


@kind("an op twice")
def _(d: Damage) -> Plan | None:
    op = d.op()
    return d.followed(op, op)


@kind("an op twice, under another id")
def _(d: Damage) -> Plan | None:
    op = d.op()
    return d.followed(d.one(o for o in d.plan.ops() if o.group == op.group), replace(op, id="again"))


@kind("a field freed twice")
def _(d: Damage) -> Plan | None:
    op = d.op(FreeOp)
    return op and d.mapped(lambda ops: (*ops, replace(op, id="again")) if op in ops else ops)


@kind("a field left out of a free")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, FreeOp) and len(o.fields) > 1)
    return op and d.changed(op, fields=op.fields[1:])


# -- in which order


@kind("a field freed too early")
def _(d: Damage) -> Plan | None:
    op = d.op(FreeOp)
    reader = op and d.one(o for o in d.plan.ops() if set(o.reads) & set(op.fields))
    return reader and d.moved(op, before=reader)


kind("a field freed at the end")(lambda d: d.moved(d.op(FreeOp)))
kind("two ops swapped on all ranks")(lambda d: d.swapped(d.op(), d.op()))
kind("an op moved elsewhere")(lambda d: d.moved(d.op(), before=d.op()))
kind("an op moved to the end")(lambda d: d.moved(d.op()))
kind("a weight transfer moved")(lambda d: d.moved(d.op(SyncWeightsOp), before=d.op()))
kind("a training before a pass")(lambda d: d.moved(d.op(TrainOp), before=d.op(InferOp, GenerateOp, ExtendOp)))
kind("a save before a training")(lambda d: d.moved(d.op(SaveOp), before=d.op(TrainOp)))
kind("a collection taken before it is filled")(lambda d: d.moved(d.op(TakeOp), before=d.op(CollectOp)))


@kind("two collectives swapped on one rank class")
def _(d: Damage) -> Plan | None:
    program = d.one(d.plan.programs) if len(d.plan.programs) > 1 else None
    there = [op for op in program.ops if op.collective] if program else []
    return d.swapped(d.one(there), d.one(there), program)


@kind("two neighbours swapped on one rank class")
def _(d: Damage) -> Plan | None:
    program = d.one(d.plan.programs)
    if program is None or len(program.ops) < 2:
        return None
    at = d.rng.randrange(len(program.ops) - 1)
    return d.swapped(program.ops[at], program.ops[at + 1], program)


@kind("a program backwards")
def _(d: Damage) -> Plan | None:
    return d.mapped(lambda ops: ops[::-1], d.one(d.plan.programs))


# -- groups and ranks


@kind("another group on all ranks")
def _(d: Damage) -> Plan | None:
    op = d.op()
    return d.changed(op, group=d.other((g.name for g in d.plan.groups), op.group) or "nowhere")


@kind("another group on one rank class")
def _(d: Damage) -> Plan | None:
    found = d.shared()
    group = found and d.other((g.name for g in d.plan.groups), found[1].group)
    return d.changed(found[1], found[0], group=group) if found and group else None


@kind("a group of another size")
def _(d: Damage) -> Plan | None:
    return d.spec("groups", lambda g: {"ranks": ((0, d.off(g.size(d.plan.world_size or 2))),)})


@kind("a rank class that begins or ends elsewhere")
def _(d: Damage) -> Plan | None:
    program = d.one(d.plan.programs)
    if program is None:
        return None
    first, last = program.first, program.last
    made = replace(program, first=d.off(first)) if d.rng.random() < 0.5 else replace(program, last=d.off(last or 1))
    return d.header(programs=tuple(made if p is program else p for p in d.plan.programs))


@kind("a boundary of rank classes off by one")
def _(d: Damage) -> Plan | None:
    at = d.rng.randrange(1, len(d.plan.programs)) if len(d.plan.programs) > 1 else 0
    cut = d.off(d.plan.programs[at].first)
    made = tuple(
        replace(p, last=cut) if i == at - 1 else replace(p, first=cut) if i == at else p
        for i, p in enumerate(d.plan.programs)
    )
    return d.header(programs=made) if at else None


@kind("a rank class cut in two")
def _(d: Damage) -> Plan | None:
    program = d.one(p for p in d.plan.programs if p.last is not None and p.last - p.first > 1)
    if program is None or program.last is None:
        return None
    cut = d.rng.randrange(program.first + 1, program.last)
    parts = (replace(program, last=cut), replace(program, first=cut))
    return d.header(programs=tuple(x for p in d.plan.programs for x in (parts if p is program else (p,))))


kind("a rank class dropped")(lambda d: d.without("programs"))
kind("a rank class twice")(lambda d: d.header(programs=(*d.plan.programs, d.plan.programs[-1])))
kind("rank classes in another order")(
    lambda d: d.header(programs=d.plan.programs[::-1]) if len(d.plan.programs) > 1 else None
)


@kind("another number of ranks")
def _(d: Damage) -> Plan | None:
    world = d.plan.world_size
    return d.header(world_size=d.other((None, 0, -1, 3, (world or 2) + 1, 2 * (world or 2)), world))


@kind("divides off by one")
def _(d: Damage) -> Plan | None:
    # A plan may run on fewer numbers of ranks than it could.
    old = d.plan.divides
    return d.header(divides=old + 1 if old % max(old - 1, 1) == 0 else d.off(old))


# -- reshards


@kind("a reshard to or from elsewhere")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    end = d.rng.choice(("source", "target", "group"))
    return op and d.changed(op, **{end: d.other((g.name for g in d.plan.groups), getattr(op, end)) or "nowhere"})


@kind("a reshard the other way")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    return op and d.changed(op, source=op.target, target=op.source)


@kind("another field in a reshard")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    field = op and d.one(f.name for f in d.plan.fields if f.name not in op.fields)
    return d.changed(op, fields=(field, *op.fields[1:])) if field else None


@kind("a field more or less in a reshard")
def _(d: Damage) -> Plan | None:
    op = d.op(ReshardOp)
    field = op and d.one(f.name for f in d.plan.fields if f.name not in op.fields)
    return op and d.changed(op, fields=(*op.fields, field) if field and d.rng.random() < 0.5 else op.fields[:-1])


@kind("a reshard that moves for nothing")
def _(d: Damage) -> Plan | None:
    there = d.op(ReshardOp)
    back = there and replace(there, id="back", source=there.target, target=there.source)
    made = d.followed(there, back)
    return made and Damage(made, d.rng).followed(back, replace(there, id="there"))
