"""Functions are called as their signatures say, as far as these are known: nothing of the user's is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rldsl.compiler.ops import Arg, ComputeOp, TrainOp
from rldsl.compiler.plan import FunctionSpec
from rldsl.compiler.signature import LIBRARY_MODULES, FieldParam, HyperParam, Signature, library_signature
from rldsl.compiler.verify.facts import Facts
from rldsl.compiler.verify.header import is_a
from rldsl.types import PROMPT, SAMPLE, TOKEN, DType, FieldType

_LOGP = FieldType(DType.F32, (SAMPLE, TOKEN))


def calls(facts: Facts, signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Arguments, settings and results of every call."""
    known: dict[str, Signature] = {}
    for spec in facts.plan.functions:
        signature = library_signature(spec.name) if spec.module in LIBRARY_MODULES else signatures.get(spec.name)
        if signature is None:
            if spec.module in LIBRARY_MODULES:
                yield f"there is no shipped function `{spec.name}`"
            continue
        known[spec.name] = signature
        yield from _same(spec, signature)
    for op in facts.ops:
        if not isinstance(op, (ComputeOp, TrainOp)):
            continue
        spec = facts.functions[op.loss if isinstance(op, TrainOp) else op.function]
        if isinstance(op, ComputeOp) and op.reduces != spec.reduces:
            yield f"`{op.id}` and its function `{spec.name}` do not agree whether it sums over ranks"
        if isinstance(op, TrainOp) and (spec.reduces or spec.per_row):
            yield f"`{op.id}`: `{spec.name}` is no loss, which sees all rows and sums over none"
        if spec.name in known:
            yield from _call(op, known[spec.name], facts)


def _same(spec: FunctionSpec, signature: Signature) -> Iterator[str]:
    found = (signature.module, signature.per_row, signature.reduces)
    if (spec.module, spec.per_row, spec.reduces) != found:
        yield f"the function `{spec.name}` is not what the plan says of it: module, rows or sums differ"


def _call(op: ComputeOp | TrainOp, signature: Signature, facts: Facts) -> Iterator[str]:
    if signature.is_loss != isinstance(op, TrainOp):
        yield f"`{op.id}` calls `{signature.name}`, which is {'a loss' if signature.is_loss else 'no loss'}"
        return
    params = {p.name: p for p in (signature.inputs[2:] if signature.is_loss else signature.inputs)}
    for arg in op.args:
        if arg.param not in params:
            yield f"`{op.id}`: `{signature.name}` takes no field `{arg.param}`"
        else:
            yield from _argument(op, arg, params[arg.param], facts)
    given = {a.param for a in op.args}
    for name, param in params.items():
        if name not in given and not param.optional:
            yield f"`{op.id}`: `{signature.name}` needs the field `{name}`"
    yield from _settings(op, {h.name: h for h in signature.hypers}, signature.name)
    if isinstance(op, ComputeOp):
        yield from _results(op, signature, facts)


def _argument(op: ComputeOp | TrainOp, arg: Arg, param: FieldParam, facts: Facts) -> Iterator[str]:
    if arg.field is None and not arg.current:
        if not param.optional:
            yield f"`{op.id}` leaves out `{param.name}`, which its function cannot do without"
        return
    have = _LOGP if arg.field is None else facts.types[arg.field]
    if not any(_accepts(want, have) for want in param.types):
        wanted = " or ".join(map(str, param.types))
        yield f"`{op.id}`: `{arg.field or 'current'}` is {have}, and `{param.name}` is {wanted}"


def _accepts(want: FieldType, have: FieldType) -> bool:
    """A prompt's row may stand where a sample's is wanted: it is repeated."""
    repeated = have.unit == PROMPT and want.unit == SAMPLE
    return want.dtype == have.dtype and want.axes[1:] == have.axes[1:] and (repeated or want.unit == have.unit)


def _settings(op: ComputeOp | TrainOp, hypers: Mapping[str, HyperParam], function: str) -> Iterator[str]:
    for name, value in op.params.items():
        hyper = hypers.get(name)
        if hyper is None:
            yield f"`{op.id}`: `{function}` has no setting `{name}`"
        elif not (value is None and hyper.optional) and not is_a(value, hyper.type):
            yield f"`{op.id}` gives `{function}` {value!r} as `{name}`, and that is {hyper.type}"
    for name, hyper in hypers.items():
        if hyper.required and name not in op.params:
            yield f"`{op.id}`: `{function}` needs the setting `{name}`"


def _results(op: ComputeOp, signature: Signature, facts: Facts) -> Iterator[str]:
    if len(op.outputs) != len(signature.outputs):
        yield f"`{op.id}` has {len(op.outputs)} results, and `{signature.name}` makes {len(signature.outputs)}"
        return
    for name, want in zip(op.outputs, signature.outputs, strict=True):
        if name is not None and facts.types[name] != want:
            yield f"`{op.id}` writes `{name}` as {facts.types[name]}, and `{signature.name}` makes {want}"
