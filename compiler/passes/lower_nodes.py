"""Nodes become ops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Call, FieldArg, Input, Keyword, Method, Module, Node
from rldsl.compiler.methods import METHODS
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of, option_of
from rldsl.compiler.passes.check_counts import batch_of, minibatch_of
from rldsl.compiler.passes.elide_old_logp import temperature_of
from rldsl.compiler.plan import (
    Aggregate,
    AnyOp,
    Arg,
    ComputeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    Scalar,
    SourceSpec,
    TrainOp,
)
from rldsl.compiler.signature import Signature
from rldsl.compiler.specs import data_source


@dataclass(frozen=True, kw_only=True)
class LowerNodes:
    """One load for each data source, then one op for each node, in the order chosen.

    Before: `reward = compute math_verify(completions, answers) -> score`
    After:  `compute reward: math_verify(completions, answers) -> score` on group `world`, 8 rows a prompt.
    """

    name: ClassVar[str] = "lower_nodes"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `ops`."""
        loads = tuple(op for i, item in enumerate(module.graph.inputs) if (op := _load(item, i, module)))
        nodes = tuple(_lower(module.graph.node_of[n], module) for n in module.order)
        return replace(module, ops=(*loads, *nodes))


def _scalar(keyword: Keyword) -> Scalar:
    assert isinstance(keyword.value, Literal), f"{keyword.name} is not bound"
    return keyword.value.value


def _load(item: Input, index: int, module: Module) -> LoadOp | None:
    columns = tuple(n for n in item.names if n in module.fields)
    if not columns:
        return None
    source = data_source(item)
    templated = "prompts" if "prompts" in item.names else item.names[0]
    if templated not in columns:
        # Nothing reads what the template would make; another column must not get it.
        kept = {name: value for name, value in source.args.items() if name != "template"}
        source = SourceSpec(kind=source.kind, args=kept)
    return LoadOp(
        id="load" if index == 0 else f"load{index + 1}",
        source=source,
        columns=columns,
        batch=batch_of(module),
    )


def _lower(node: Node, module: Module) -> AnyOp:
    match node.call.method:
        case None:
            return _compute(node, module)
        case Method.GENERATE:
            return _generate(node, module)
        case Method.TRAIN:
            return _train(node, module)
        case _:
            return _infer(node, module)


def _args(args: tuple[FieldArg, ...]) -> tuple[Arg, ...]:
    return tuple(
        Arg(param=a.param or a.name, field=None if a.absent or a.current else a.name, current=a.current) for a in args
    )


def _hypers(call: Call, signature: Signature, per_prompt: int) -> dict[str, Scalar]:
    own = {s.name for s in METHODS[call.method].keywords} if call.method else set()
    given = {k.name: _scalar(k) for k in call.keywords if k.name not in own}
    if any(h.name == "group" for h in signature.hypers):
        given.setdefault("group", per_prompt)
    return given


def _per_prompt(node: Node, module: Module) -> int:
    return max((module.fields[f].per_prompt for f in node.reads), default=1)


def _compute(node: Node, module: Module) -> ComputeOp:
    assert node.call.function is not None
    signature = module.signatures[node.call.function]
    per_prompt = _per_prompt(node, module)
    return ComputeOp(
        id=node.id,
        node=node.id,
        group=module.placement[node.id],
        because=node.because,
        function=signature.name,
        args=_args(node.call.args),
        params=_hypers(node.call, signature, per_prompt),
        outputs=tuple(o if o in module.fields else None for o in node.outputs),
        per_prompt=per_prompt,
        reduces=signature.reduces,
    )


def _generate(node: Node, module: Module) -> GenerateOp:
    call = node.call
    assert call.model is not None
    slots = [name for name, _ in METHODS[Method.GENERATE].outputs]
    return GenerateOp(
        id=node.id,
        node=node.id,
        group=module.placement[node.id],
        because=node.because,
        model=call.model,
        prompts=call.args[0].name,
        n=int(number_of(call, "n")),
        max_new_tokens=int(number_of(call, "max_new_tokens")),
        temperature=float(number_of(call, "temperature")),
        top_p=float(number_of(call, "top_p")),
        top_k=int(number_of(call, "top_k")),
        outputs={s: o for s, o in zip(slots, node.outputs, strict=False) if o in module.fields},
    )


def _infer(node: Node, module: Module) -> InferOp:
    call = node.call
    assert call.model is not None and call.method is not None
    logprob = call.method is Method.LOGPROB
    return InferOp(
        id=node.id,
        node=node.id,
        group=module.placement[node.id],
        because=node.because,
        model=call.model,
        method=InferMethod(call.method.value),
        tokens=call.args[0].name,
        response_mask=call.args[1].name,
        output=node.outputs[0],
        temperature=temperature_of(call, module) if logprob else 1.0,
    )


def _train(node: Node, module: Module) -> TrainOp:
    call = node.call
    assert call.model is not None and call.function is not None
    option = {s.name: option_of(call, s.name) for s in METHODS[Method.TRAIN].options}
    return TrainOp(
        id=node.id,
        node=node.id,
        group=module.placement[node.id],
        because=node.because,
        model=call.model,
        tokens=call.args[0].name,
        response_mask=call.args[1].name,
        loss=call.function,
        args=_args(call.args[2:]),
        params=_hypers(call, module.signatures[call.function], _per_prompt(node, module)),
        aggregate=Aggregate(str(option["aggregate"])),
        lr=number_of(call, "lr"),
        weight_decay=number_of(call, "weight_decay"),
        beta1=number_of(call, "beta1"),
        beta2=number_of(call, "beta2"),
        max_grad_norm=number_of(call, "max_grad_norm"),
        epochs=int(number_of(call, "epochs")),
        minibatch=minibatch_of(node, batch_of(module)),
        micro_batch_tokens=int(number_of(call, "micro_batch_tokens")),
        temperature=temperature_of(call, module),
        skip_where_zero=node.skip_where_zero,
    )
