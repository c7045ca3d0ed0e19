"""Damage to forwards that do the work of several."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.damage import Damage, kind
from rldsl.compiler.ops import InferHead, InferMethod, InferOp, parts
from rldsl.compiler.plan import Plan


def _fused(d: Damage) -> Any:
    return d.one(o for o in d.plan.ops() if isinstance(o, InferOp) and o.also)


def _with(d: Damage, op: InferOp, **fields: Any) -> Plan | None:
    """Other values in one of the further heads."""
    at = d.rng.randrange(len(op.also))
    return d.changed(op, also=tuple(replace(h, **fields) if i == at else h for i, h in enumerate(op.also)))


@kind("a head lost")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    gone = op and d.rng.randrange(len(op.also))
    return op and d.changed(op, also=tuple(h for i, h in enumerate(op.also) if i != gone))


@kind("a head lost on one rank class")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    program = op and d.one(p for p in d.plan.programs if op in p.ops)
    return d.changed(op, program, also=()) if program and len(d.plan.programs) > 1 else None


@kind("a head twice")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and d.changed(op, also=(*op.also, d.rng.choice(op.also)))


@kind("a head of another model")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    other = op and d.other((*(m.name for m in d.plan.models), "ghost"), op.also[0].model)
    return other and _with(d, op, model=other)


@kind("a head that is asked something else")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and _with(d, op, method=d.other(InferMethod, op.also[0].method))


@kind("a head of another node")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and _with(d, op, node=d.other((*d.plan.depths, "ghost", None), op.also[0].node))


@kind("a head under another mask, or another result")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    name = d.rng.choice(("response_mask", "output"))
    other = op and d.other((*(f.name for f in d.plan.fields), "ghost"), getattr(op.also[0], name))
    return other and _with(d, op, **{name: other})


@kind("a head too hot to be")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and _with(d, op, temperature=d.rng.choice((-1.0, 0.0, float("nan"), float("inf"))))


@kind("two heads that write each other's fields")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and d.changed(op, output=op.also[0].output, also=(replace(op.also[0], output=op.output), *op.also[1:]))


@kind("two heads of each other's nodes")
def _(d: Damage) -> Plan | None:
    op = _fused(d)
    return op and d.changed(op, node=op.also[0].node, also=(replace(op.also[0], node=op.node), *op.also[1:]))


@kind("a forward taken into one of other layers or tokens")
def _(d: Damage) -> Plan | None:
    trunk = {m.name: m.shares or m.name for m in d.plan.models}
    forwards = [o for o in d.plan.ops() if isinstance(o, InferOp)]
    pairs = ((a, b) for a in forwards for b in forwards if (trunk[a.model], a.tokens) != (trunk[b.model], b.tokens))
    pair = d.one(pairs)
    if pair is None:
        return None
    into, gone = pair
    names = ("node", "model", "method", "response_mask", "output", "temperature")
    heads = (InferHead(**{n: getattr(p, n) for n in names}) for p in parts((gone,)))
    made = d.changed(into, also=(*into.also, *heads))
    return made and Damage(made, d.rng).dropped(gone)
