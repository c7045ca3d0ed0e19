"""Damage to the sizes, names and types of a plan."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.damage import BATCHED, MODEL_OPS, TYPES, Damage, kind
from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferHead,
    InferMethod,
    InferOp,
    LoadOp,
    OutputOp,
    ReshardOp,
    SaveOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.plan import FunctionSpec, Group, ModelSpec, Plan

# -- sizes


@kind("a batch off by one")
def _(d: Damage) -> Plan | None:
    op = d.op(*BATCHED)
    return d.changed(op, batch=d.off(op.batch))


@kind("another batch in one op")
def _(d: Damage) -> Plan | None:
    op = d.op(TrainOp, CollectOp, TakeOp, ReshardOp)
    return d.changed(op, batch=2 * op.batch)


@kind("a minibatch off by one")
def _(d: Damage) -> Plan | None:
    op = d.op(TrainOp)
    return d.changed(op, minibatch=op.minibatch + 1 if d.plan.divides == 1 else d.off(op.minibatch))


@kind("another number of samples")
def _(d: Damage) -> Plan | None:
    op = d.op(GenerateOp)
    return op and d.changed(op, n=d.off(op.n))


@kind("a function told another group")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp) and "group" in o.params)
    return op and d.changed(op, params={**op.params, "group": d.off(int(op.params["group"] or 0))})


kind("rows a prompt off by one, of a field")(lambda d: d.spec("fields", lambda f: {"per_prompt": d.off(f.per_prompt)}))


@kind("rows a prompt off by one, of an op")
def _(d: Damage) -> Plan | None:
    op = d.op(ComputeOp, OutputOp)
    return op and d.changed(op, per_prompt=d.off(op.per_prompt))


@kind("a round or number of rounds off by one")
def _(d: Damage) -> Plan | None:
    op = d.op(LoadOp)
    name = d.rng.choice(("round", "rounds"))
    return d.changed(op, **{name: d.off(getattr(op, name))})


@kind("a setting out of its range")
def _(d: Damage) -> Plan | None:
    op = d.op(GenerateOp, ExtendOp, TrainOp, InferOp, SaveOp)
    names: dict[Any, tuple[str, ...]] = {
        GenerateOp: ("max_new_tokens", "temperature", "top_p", "top_k"), ExtendOp: ("max_new_tokens", "top_p"),
        TrainOp: ("lr", "epochs", "beta1", "max_grad_norm", "temperature"), InferOp: ("temperature",),
        SaveOp: ("every",),
    }  # fmt: skip
    name = d.rng.choice(names[type(op)])
    return d.changed(op, **{name: -1 if isinstance(getattr(op, name), int) else d.rng.choice((-0.5, float("nan")))})


# -- names


kind("a function missing")(lambda d: d.without("functions"))
kind("a model missing")(lambda d: d.without("models"))
kind("a field missing")(lambda d: d.without("fields"))
kind("a group missing")(lambda d: d.without("groups"))
kind("a function nobody calls")(
    lambda d: d.header(functions=(*d.plan.functions, FunctionSpec(name="ghost", module="ghosts")))
)
kind("a model nobody uses")(
    lambda d: d.header(models=(*d.plan.models, ModelSpec(name="ghost", kind="policy", source="ghosts")))
)
kind("a field nobody writes")(lambda d: d.header(fields=(*d.plan.fields, replace(d.plan.fields[0], name="ghost"))))
kind("a group of no op")(lambda d: d.header(groups=(*d.plan.groups, Group(name="ghosts", ranks=((0, 1),)))))
kind("a declaration twice")(
    lambda d: d.header(**{(w := d.rng.choice(("models", "fields", "functions", "groups"))): getattr(d.plan, w) * 2})
)


@kind("an unknown field")
def _(d: Damage) -> Plan | None:
    op = d.op(*(type(o) for o in d.plan.ops() if o.writes or o.reads or isinstance(o, FreeOp)))
    return _renamed(d, op, "ghost")


@kind("another field in an op")
def _(d: Damage) -> Plan | None:
    op = d.op(*(type(o) for o in d.plan.ops() if o.writes or o.reads or isinstance(o, FreeOp)))
    return _renamed(d, op, d.rng.choice(d.plan.fields).name)


def _renamed(d: Damage, op: AnyOp, new: str) -> Plan | None:
    """One of the fields of an op replaced, but no input by another one of its type: no edge tells them apart."""
    touched = (*op.reads, *op.writes, *(op.fields if isinstance(op, FreeOp) else ()))
    old = d.one(dict.fromkeys(touched))
    alike = {(f.type, f.producer) for f in d.plan.fields if f.name in (old, new) and f.producer == "input"}
    if old is None or new == old or (len(alike) == 1 and old in op.reads and "ghost" not in (old, new)):
        return None

    def swap(value: Any) -> Any:
        if isinstance(value, str):
            return new if value == old else value
        if isinstance(value, Arg):
            return replace(value, field=swap(value.field))
        if isinstance(value, InferHead):
            return replace(value, response_mask=swap(value.response_mask), output=swap(value.output))
        if isinstance(value, dict):
            return {swap(k): swap(v) for k, v in value.items()}
        return tuple(map(swap, value)) if isinstance(value, tuple) else value

    slots = ("prompts", "tokens", "response_mask", "rollout_logp", "observation", "done", "output", "where", "field",
             "mask", "fields", "columns", "outputs", "args", "skip_where_zero", "also")  # fmt: skip
    given = {s: getattr(op, s) for s in slots if s in op.__struct_fields__}
    return d.changed(op, **{s: swap(v) if v is not None else None for s, v in given.items()})


@kind("an unknown function, model or group")
def _(d: Damage) -> Plan | None:
    op = d.op(ComputeOp, *MODEL_OPS)
    return d.changed(op, **{"function" if isinstance(op, ComputeOp) else d.rng.choice(("model", "group")): "ghost"})


@kind("another model in an op")
def _(d: Damage) -> Plan | None:
    op = d.op(*MODEL_OPS)
    model = d.other((m.name for m in d.plan.models), op.model)
    return d.changed(op, model=model) if model else None


@kind("another function in an op")
def _(d: Damage) -> Plan | None:
    op = d.op(ComputeOp)
    name = op and d.other((f.name for f in d.plan.functions), op.function)
    return d.changed(op, function=name) if name else None


@kind("a function from elsewhere")
def _(d: Damage) -> Plan | None:
    return d.spec("functions", lambda f: {"module": d.other(("rldsl.algos.losses", None), f.module)})


@kind("a function said to be of rows, or to sum")
def _(d: Damage) -> Plan | None:
    return d.spec("functions", lambda f: {(w := d.rng.choice(("per_row", "reduces"))): not getattr(f, w)})


@kind("a model of another kind")
def _(d: Damage) -> Plan | None:
    return d.spec("models", lambda m: {"kind": d.other(("policy", "value", "reward", "ghost"), m.kind)})


@kind("a model that cannot be loaded")
def _(d: Damage) -> Plan | None:
    return d.spec("models", lambda m: d.rng.choice(({"source": ""}, {"precision": "int3"}, {"lora_rank": -1})))


# -- types


kind("a field of another type")(lambda d: d.spec("fields", lambda f: {"type": d.other(TYPES, f.type)}))
kind("a field of no type")(lambda d: d.spec("fields", lambda f: {"type": d.rng.choice(("f64[sample]", "f32", ""))}))


@kind("two outputs of a rollout exchanged")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, GenerateOp | ExtendOp) and len(o.outputs) > 1)
    if op is None:
        return None
    slots = list(op.outputs)
    return d.changed(op, outputs=dict(zip(slots, [op.outputs[s] for s in (*slots[1:], slots[0])], strict=True)))


@kind("another pass of a model")
def _(d: Damage) -> Plan | None:
    op = d.op(InferOp)
    return op and d.changed(op, method=d.other(InferMethod, op.method))


@kind("a field where a function wants none")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp | TrainOp) and o.args)
    return op and d.changed(op, args=(*op.args[:-1], replace(op.args[-1], param="ghost")))


@kind("an argument left out")
def _(d: Damage) -> Plan | None:
    op = d.one(o for o in d.plan.ops() if isinstance(o, ComputeOp | TrainOp) and o.reads)
    at = op and d.one(i for i, a in enumerate(op.args) if a.field is not None)
    return None if at is None else d.changed(op, args=(*op.args[:at], *op.args[at + 1 :]))


@kind("a setting a function lacks, or of another type")
def _(d: Damage) -> Plan | None:
    op = d.op(ComputeOp, TrainOp)
    name = d.one(op.params) if d.rng.random() < 0.5 else None
    wrong = 7 if isinstance(op.params.get(name), str) else "ghost"
    return d.changed(op, params={**op.params, name or "ghost": wrong})


@kind("a result more or less")
def _(d: Damage) -> Plan | None:
    op = d.op(ComputeOp)
    return op and d.changed(op, outputs=d.rng.choice(((*op.outputs, None), op.outputs[:-1], ())))


@kind("running log-probs for old ones")
def _(d: Damage) -> Plan | None:
    op = d.one(
        o for o in d.plan.ops() if isinstance(o, TrainOp | ComputeOp) and any(a.field is not None for a in o.args)
    )
    at = op and d.one(i for i, a in enumerate(op.args) if a.field is not None)
    if at is None:
        return None
    return d.changed(op, args=(*op.args[:at], Arg(param=op.args[at].param, current=True), *op.args[at + 1 :]))


@kind("rows skipped by another field")
def _(d: Damage) -> Plan | None:
    op = d.op(TrainOp)
    scores = {a.field for a in op.args if a.field is not None and d.plan.field(a.field).type == "f32[sample]"}
    field = d.one(f.name for f in d.plan.fields if f.name not in scores)
    return field and d.changed(op, skip_where_zero=field)


@kind("names of a source's columns off")
def _(d: Damage) -> Plan | None:
    op = d.op(LoadOp)
    return d.changed(op, names=d.rng.choice(((*op.columns, "ghost"), op.columns[:1] * 2)))


@kind("a stream that reads on, or anew")
def _(d: Damage) -> Plan | None:
    op = d.op(LoadOp)
    return d.changed(op, first=not op.first)


@kind("another number of bytes")
def _(d: Damage) -> Plan | None:
    name = d.rng.choice(("1", "P"))
    return d.spec("fields", lambda f: {"bytes": {**f.bytes, name: d.off(f.bytes.get(name, 1))}})


@kind("a layout of a field missing, or one too many")
def _(d: Damage) -> Plan | None:
    group = d.rng.choice(d.plan.groups).name
    return d.spec("fields", lambda f: {"layouts": f.layouts[1:] if d.rng.random() < 0.5 else (*f.layouts, group)})
