"""Damage to what runs in the background: functions, their waits, and loads that read ahead."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.ops import (
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    LoadOp,
    ReshardOp,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
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
kind("a transfer no longer in the background")(lambda d: d.changed(_travels(d), background=False))
kind("a transfer begun on some ranks")(lambda d: _changed_group(d, _travels(d)))
kind("a transfer begun elsewhere")(lambda d: d.moved(_travels(d), before=d.op()))
kind("a transfer begun at the end")(lambda d: d.moved(_travels(d)))
kind("a transfer without its wait")(lambda d: d.dropped(_arrival(d)))
kind("a transfer waited for elsewhere")(lambda d: d.moved(_arrival(d), before=d.op()))
kind("a transfer waited for too late")(lambda d: d.moved(_arrival(d)))
kind("a transfer that shares memory, in the background")(lambda d: d.changed(_travels(d), sync=SyncKind.LOCAL))


def _travels(d: Damage) -> Any:
    return d.one(o for o in d.plan.ops() if isinstance(o, SyncWeightsOp) and o.background)


def _arrival(d: Damage) -> Any:
    transfer = _travels(d)
    return transfer and d.one(o for o in d.plan.ops() if isinstance(o, WaitOp) and o.begun == transfer.id)


@kind("a transfer put into the background")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, SyncWeightsOp) and not o.background)
    return op and d.changed(op, background=True)


@kind("a transfer put into the background until the end of the step")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, SyncWeightsOp) and not o.background)
    if op is None:
        return None
    begun = replace(op, background=True)
    wait = WaitOp(id="wait", node=op.node, group=op.group, guard=op.guard, begun=op.id, holds=())
    made = Damage(d.changed(op, background=True), d.rng).followed(begun, wait)
    last = d.one(o for o in d.plan.ops() if isinstance(o, TrainOp))
    return last and Damage(made, d.rng).moved(wait)


@kind("a training beside a transfer of what it trains")
def _(d: Damage) -> Plan | None:
    op = _travels(d)
    trunks = {m.name: m.shares or m.name for m in d.plan.models}
    trains = op and d.one(o for o in d.plan.ops() if isinstance(o, TrainOp) and trunks[o.model] == trunks[op.model])
    return op and d.moved(trains, before=_arrival(d))


@kind("a rollout beside the transfer to its engine")
def _(d: Damage) -> Plan | None:
    op = _travels(d)
    same = op and d.one(
        o
        for o in d.plan.ops()
        if isinstance(o, GenerateOp | ExtendOp) and (o.model, o.staleness) == (op.model, op.staleness)
    )
    return op and d.moved(same, before=_arrival(d))


@kind("a transfer begun elsewhere on one rank class")
def _(d: Damage) -> Plan | None:
    op = _travels(d)
    programs = [p for p in d.plan.programs if op in p.ops]
    if op is None or len(programs) < 2:
        return None
    program = d.one(programs)
    return d.swapped(op, d.one(program.ops), program)


@kind("a wait for a transfer dropped on one rank class")
def _(d: Damage) -> Plan | None:
    op = _arrival(d)
    program = op and d.one(p for p in d.plan.programs if op in p.ops)
    return d.dropped(op, program) if program and len(d.plan.programs) > 1 else None


@kind("a function's wait for a transfer")
def _(d: Damage) -> Plan | None:
    op, wait = _travels(d), d.one(o for o in d.plan.ops() if isinstance(o, WaitOp))
    return op and wait and d.changed(wait, begun=op.id)


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
    op = d.one(o for o in d.plan.ops() if isinstance(o, WaitOp) and o.holds)
    group = op and d.other((g.name for g in d.plan.groups), op.group)
    if not group:
        return None
    batch = next(o.batch for o in d.plan.ops() if isinstance(o, LoadOp))
    there = ReshardOp(id="there", guard=op.guard, fields=op.holds[:1], source=op.group, target=group, batch=batch)
    made = d.followed(next(o for o in d.plan.ops() if o.id == op.begun), there)
    return made and Damage(made, d.rng).followed(there, replace(there, id="back", source=group, target=op.group))


@kind("a move of nothing")
def _(d: Damage) -> Plan | None:
    return d.changed(d.op(ReshardOp), fields=(), keeps=())


@kind("a validation that reads ahead")
def _(d: Damage) -> Plan | None:
    return d.changed(d.one(o for o in d.plan.ops() if isinstance(o, LoadOp) and o.first), prefetch=True)
