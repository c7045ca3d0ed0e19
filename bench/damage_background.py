"""Damage to what runs in the background: functions, their waits, and loads that read ahead."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.ops import ComputeOp, FreeOp, Guard, LoadOp, ReshardOp, WaitOp
from rldsl.compiler.plan import Plan

kind("a wait dropped")(lambda d: d.dropped(d.op(WaitOp)))
kind("a wait moved")(lambda d: d.moved(d.op(WaitOp), before=d.op()))
kind("a wait at the end")(lambda d: d.moved(d.op(WaitOp)))
kind("a wait for nothing")(lambda d: d.changed(d.op(WaitOp), begun="ghost"))
kind("a wait that holds nothing")(lambda d: d.changed(d.op(WaitOp), holds=()))
kind("a wait on some ranks")(lambda d: _changed_group(d, d.op(WaitOp)))
kind("a function no longer in the background")(lambda d: d.changed(_begun(d), background=False))
kind("a function begun on some ranks")(lambda d: _changed_group(d, _begun(d)))
kind("a function begun elsewhere")(lambda d: d.moved(_begun(d), before=d.op()))
kind("a function begun after its wait")(lambda d: d.swapped(_begun(d), d.op(WaitOp)))


def _begun(d: Damage) -> Any:
    return d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp) and o.background)


def _changed_group(d: Damage, op: Any) -> Plan | None:
    group = op and d.other((g.name for g in d.plan.groups), op.group)
    return d.changed(op, group=group) if group else None


@kind("a wait twice")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    return op and d.followed(op, replace(op, id="again"))


@kind("a wait dropped on one rank class")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    program = op and d.one(p for p in d.plan.programs if op in p.ops)
    return d.dropped(op, program) if program and len(d.plan.programs) > 1 else None


@kind("a wait for another function")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    other = op and d.other((o.id for o in d.plan.ops() if isinstance(o, ComputeOp)), op.begun)
    return d.changed(op, begun=other) if other else None


@kind("a wait in other steps")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    return op and d.changed(op, guard=d.other((None, Guard(every=3), Guard(until="ghost")), op.guard))


@kind("a wait that holds another field, or one more")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    field = op and d.one(f.name for f in d.plan.fields if f.name not in op.holds)
    return field and d.changed(op, holds=(*op.holds[d.rng.randrange(2) :], field))


@kind("a function put into the background")
def _(d: Damage) -> Plan | None:
    return d.changed(d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp) and not o.background), background=True)


@kind("a sum over ranks in the background")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp) and o.reduces)
    made = op and d.changed(op, background=True)
    wait = op and WaitOp(id="wait", node=op.node, group=op.group, guard=op.guard, begun=op.id, holds=op.reads)
    return made and Damage(made, d.rng).followed(replace(op, background=True), wait)


@kind("a result read before the wait")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    begun = op and next(o for o in d.plan.ops() if o.id == op.begun)
    return op and d.moved(d.one(o for o in d.plan.ops() if set(o.reads) & set(begun.writes)), before=op)


@kind("a field freed before the wait")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    return op and d.moved(
        d.one(o for o in d.plan.ops() if isinstance(o, FreeOp) and set(o.fields) & set(op.holds)), before=op
    )


@kind("a field moved before the wait, and back")
def _(d: Damage) -> Plan | None:
    op = d.op(WaitOp)
    group = op and d.other((g.name for g in d.plan.groups), op.group)
    if not group:
        return None
    batch = next(o.batch for o in d.plan.ops() if isinstance(o, LoadOp))
    there = ReshardOp(id="there", guard=op.guard, fields=op.holds[:1], source=op.group, target=group, batch=batch)
    made = d.followed(next(o for o in d.plan.ops() if o.id == op.begun), there)
    return made and Damage(made, d.rng).followed(there, replace(there, id="back", source=group, target=op.group))


@kind("a validation that reads ahead")
def _(d: Damage) -> Plan | None:
    return d.changed(d.one(o for o in d.plan.ops() if isinstance(o, LoadOp) and o.first), prefetch=True)
