"""Damage to collections, guards, weights and the graph; and, last, what changes nothing."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ExtendOp,
    GenerateOp,
    Guard,
    MetricOp,
    OutputOp,
    Reason,
    Reduction,
    SaveOp,
    SyncKind,
    SyncWeightsOp,
    TakeOp,
    WaitOp,
)
from rldsl.compiler.plan import Dropped, Plan, Source

# -- collections


@kind("another collection")
def _(d: Damage) -> Plan | None:
    op = d.op(CollectOp, TakeOp)
    return op and d.changed(op, **{"into" if isinstance(op, CollectOp) else "collection": "ghost"})


@kind("a collection asked by another field")
def _(d: Damage) -> Plan | None:
    op = d.op(CollectOp)
    field = op and d.other((f.name for f in d.plan.fields), op.where)
    return d.changed(op, where=field) if field else None


@kind("a field more or less in a collection")
def _(d: Damage) -> Plan | None:
    op = d.op(CollectOp, TakeOp)
    if isinstance(op, TakeOp):
        return d.changed(op, outputs=op.outputs[1:])
    return op and d.changed(op, fields=dict(list(op.fields.items())[1:]))


# -- guards


def _bound(d: Damage) -> Any:
    """An op whose guard the plan needs: that of one that only reports what is always there is free."""
    guards = {name: op.guard for op in d.plan.ops() for name in op.writes}
    return d.one(
        o for o in d.plan.ops() if o.guard is not None and (o.writes or any(guards[n] is not None for n in o.reads))
    )


kind("a guard dropped on one op")(lambda d: d.changed(_bound(d), guard=None))


@kind("another guard on one op")
def _(d: Damage) -> Plan | None:
    op = _bound(d)
    return op and d.changed(
        op,
        guard=d.other((Guard(every=7), Guard(until="ghost"), Guard(every=2 * op.guard.every + 2), Guard()), op.guard),
    )


@kind("a guard on an op that has none")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if o.guard is None and not isinstance(o, MetricOp | OutputOp))
    collections = [o.into for o in d.plan.ops() if isinstance(o, CollectOp)]
    return op and d.changed(op, guard=d.one((Guard(every=2), Guard(until=d.one(collections) or "ghost"))))


@kind("a guard that differs between rank classes")
def _(d: Damage) -> Plan | None:
    found = d.shared()
    return found and d.changed(found[1], found[0], guard=Guard(every=3))


# -- weights


@kind("another staleness")
def _(d: Damage) -> Plan | None:
    op = d.op(GenerateOp, ExtendOp, SyncWeightsOp)
    return d.changed(op, staleness=d.rng.choice((1 - op.staleness, 2, -1)))


@kind("another way to transfer weights")
def _(d: Damage) -> Plan | None:
    op = d.op(SyncWeightsOp)
    return d.changed(op, sync=d.other(SyncKind, op.sync))


@kind("a model frozen, or not")
def _(d: Damage) -> Plan | None:
    return d.spec("models", lambda m: {"trainable": not m.trainable})


@kind("a trunk that is not there, or of another kind")
def _(d: Damage) -> Plan | None:
    return d.spec("models", lambda m: {"shares": d.rng.choice(("ghost", m.name))})


@kind("a checkpoint elsewhere")
def _(d: Damage) -> Plan | None:
    return d.changed(d.op(SaveOp), path=d.rng.choice(("", "/etc/checkpoint", "../checkpoint", "a/../../b")))


@kind("rows put out elsewhere")
def _(d: Damage) -> Plan | None:
    return d.changed(d.op(OutputOp), name=d.rng.choice(("", "../rows", "a/b", "a\0b")))


@kind("two metrics of one name that differ")
def _(d: Damage) -> Plan | None:
    op = d.op(MetricOp)
    other = op and d.one(o for o in d.plan.ops() if isinstance(o, MetricOp) and o.id != op.id)
    return other and d.changed(op, name=other.name, reduction=d.other(Reduction, other.reduction))


# -- the graph


@kind("an edge dropped")
def _(d: Damage) -> Plan | None:
    # An edge of the user's own says nothing that could be missed but the depth.
    return d.without("edges", d.one(i for i, e in enumerate(d.plan.edges) if not e[2].startswith("after")))


@kind("an edge more")
def _(d: Damage) -> Plan | None:
    nodes = [*d.plan.depths, "ghost"]
    edge = (d.rng.choice(nodes), d.rng.choice(nodes), d.rng.choice(("field tokens", "weights actor", "ghost")))
    return None if edge in d.plan.edges else d.header(edges=(*d.plan.edges, edge))


@kind("an edge turned round")
def _(d: Damage) -> Plan | None:
    edge = d.one(d.plan.edges)
    turned = edge and (edge[1], edge[0], edge[2])
    return turned and d.header(edges=tuple(turned if e == edge else e for e in d.plan.edges))


@kind("a depth off by one")
def _(d: Damage) -> Plan | None:
    node = d.one(d.plan.depths)
    return node and d.header(depths={**d.plan.depths, node: d.off(d.plan.depths[node])})


kind("a node nobody works")(lambda d: d.header(depths={**d.plan.depths, "ghost": 0}))
kind("a role of no node")(lambda d: d.header(roles={**d.plan.roles, "ghost": "ACTOR"}))
kind("another producer of a field")(
    lambda d: d.spec("fields", lambda f: {"producer": d.other([*d.plan.depths, "input", "ghost"], f.producer)})
)


@kind("another node of an op")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if o.node is not None and not isinstance(o, SyncWeightsOp))
    return op and d.changed(op, node=d.other([*d.plan.depths, "ghost", None], op.node))


@kind("the nodes of two ops exchanged")
def _(d: Damage) -> Plan | None:
    ops = [o for o in d.plan.ops() if o.node is not None and not isinstance(o, SyncWeightsOp)]
    a, b = d.one(ops), d.one(ops)
    if a is None or b is None or a.id == b.id:
        return None
    made = d.changed(a, node=b.node)
    return made and Damage(made, d.rng).changed(b, node=a.node)


@kind("another id on one rank class")
def _(d: Damage) -> Plan | None:
    found = d.shared()
    return found and d.changed(found[1], found[0], id="other")


# -- what changes nothing


@kind("another id on all ranks")
def _(d: Damage) -> Plan | None:
    op = d.op()
    made = d.changed(op, id="other")
    wait = d.one(o for o in d.plan.ops() if isinstance(o, WaitOp) and o.begun == op.id)
    return made and (Damage(made, d.rng).changed(wait, begun="other") if wait else made)


kind("another reason")(lambda d: d.changed(d.op(), because=(Reason(by="nobody", why="no reason"),)))
kind("something more that was dropped")(
    lambda d: d.header(dropped=(*d.plan.dropped, Dropped(what="ghost", by="nobody", why="it was never there")))
)
kind("another source")(lambda d: d.header(source=Source(path="other.rl", sha256="0" * 64)))


@kind("a group under another name")
def _(d: Damage) -> Plan | None:
    old = d.rng.choice(d.plan.groups).name
    names = ("group", "source", "target")

    def change(op: AnyOp) -> AnyOp:
        return replace(op, **{n: "other" for n in names if n in op.__struct_fields__ and getattr(op, n) == old})

    made = d.mapped(lambda ops: tuple(map(change, ops)))
    return replace(
        made,
        groups=tuple(replace(g, name="other") if g.name == old else g for g in d.plan.groups),
        phases=tuple(replace(p, group="other") if p.group == old else p for p in d.plan.phases),
        fields=tuple(replace(f, layouts=tuple("other" if g == old else g for g in f.layouts)) for f in d.plan.fields),
    )
