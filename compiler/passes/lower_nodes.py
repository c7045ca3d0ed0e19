"""Nodes become ops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypedDict

from msgspec import structs

from rldsl.compiler.expr import Expr, Literal
from rldsl.compiler.ir import BlockKind, Call, FieldArg, Graph, Input, Keyword, Method, Module, Node
from rldsl.compiler.methods import METHODS
from rldsl.compiler.ops import (
    Aggregate,
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    Guard,
    InferMethod,
    InferOp,
    LoadOp,
    MetricOp,
    OutputOp,
    Reason,
    Recompute,
    Reduction,
    Scalar,
    SourceSpec,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of, option_of
from rldsl.compiler.passes.check_counts import batch_of, minibatch_of
from rldsl.compiler.passes.elide_old_logp import temperature_of
from rldsl.compiler.signature import Signature
from rldsl.compiler.specs import data_source


@dataclass(frozen=True, kw_only=True)
class LowerNodes:
    """One op for each node, in the order chosen, and one load for each data source, before its first reader.

    Before: `reward = compute math_verify(completions, answers) -> score`
    After:  `compute reward: math_verify(completions, answers) -> score` on group `world`, 8 rows a prompt.
    """

    name: ClassVar[str] = "lower_nodes"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `ops`."""
        loads = _placed(_loads(module), module)
        ops: dict[str, AnyOp] = {}
        for node_id in module.order:
            node = module.graph.node_of[node_id]
            ops |= {loads[f].id: loads[f] for f in node.reads if f in loads and loads[f].id not in ops}
            ops[node.id] = _lower(node, module)
        return replace(module, ops=tuple(ops.values()))


def _placed(loads: Iterable[LoadOp], module: Module) -> dict[str, LoadOp]:
    """By column, the load of it, on the ranks of the node that reads first of any load of that stream."""
    found = {name: load for load in loads for name in load.columns}
    group: dict[str, str] = {}
    for node_id in module.order:
        for name in module.graph.node_of[node_id].reads:
            if name in found:
                group.setdefault(found[name].stream, module.placement[node_id])
    placed = {load.id: structs.replace(load, group=group[load.stream]) for load in found.values()}
    return {name: placed[load.id] for name, load in found.items()}


def _scalar(keyword: Keyword) -> Scalar:
    assert isinstance(keyword.value, Literal), f"{keyword.name} is not bound"
    return keyword.value.value


def _loads(module: Module) -> Iterator[LoadOp]:
    for item in module.graph.inputs:
        # The copies that an unrolled loop made of one statement take turns at one stream.
        stream = f"load:{item.block}.{item.names[0].rpartition('.')[2]}" if item.block else f"load:{item.names[0]}"
        columns = tuple(n for n in item.names if n in module.fields)
        if columns:
            yield _load(item, columns, stream, module)


def _load(item: Input, columns: tuple[str, ...], stream: str, module: Module) -> LoadOp:
    block = module.graph.block_of.get(item.block or "")
    plain = {n: n.rpartition(".")[2] for n in item.names}
    source = data_source(item)
    templated = next((n for n in item.names if plain[n] == "prompts"), item.names[0])
    if templated not in columns:
        # Nothing reads what the template would make; another column must not get it.
        kept = {name: value for name, value in source.args.items() if name != "template"}
        source = SourceSpec(kind=source.kind, args=kept)
    return LoadOp(
        id=f"load:{item.names[0]}",
        guard=guard_of(item.block, item.round, module.graph),
        source=source,
        columns=columns,
        names=tuple(plain[n] for n in columns) if block else (),
        batch=module.batches[item.block],
        stream=stream,
        round=max(item.round - 1, 0),
        rounds=int(_literal(block.bound)) if block and item.round else 1,
        first=block is not None and block.kind is BlockKind.VALIDATE,
    )


def _literal(expr: Expr) -> int:
    assert isinstance(expr, Literal) and isinstance(expr.value, int)
    return expr.value


def guard_of(block_id: str | None, number: int, graph: Graph) -> Guard | None:
    """When what stands in a block runs: a validation now and then, what collects while there is not enough."""
    block = graph.block_of.get(block_id or "")
    if block is None:
        return None
    if block.kind is BlockKind.VALIDATE:
        return Guard(every=_literal(block.bound))
    return Guard(until=block.id) if block.where is not None and number > 1 else None


def _lower(node: Node, module: Module) -> AnyOp:
    lower = _LOWER.get(node.call.method, _infer)
    return lower(node, module)


class _Common(TypedDict):
    """What every op of a node has."""

    id: str
    node: str
    group: str
    guard: Guard | None
    because: tuple[Reason, ...]


def _common(node: Node, module: Module) -> _Common:
    return _Common(
        id=node.id,
        node=node.id,
        group=module.placement[node.id],
        guard=guard_of(node.block, node.round, module.graph),
        because=node.because,
    )


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
        **_common(node, module),
        function=signature.name,
        args=_args(node.call.args),
        params=_hypers(node.call, signature, per_prompt),
        outputs=tuple(o if o in module.fields else None for o in node.outputs),
        per_prompt=per_prompt,
        reduces=signature.reduces,
    )


class _Sampling(TypedDict):
    """What every op that samples has."""

    model: str
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float
    top_p: float
    top_k: int
    staleness: int
    outputs: dict[str, str]


def _sampling(node: Node, module: Module) -> _Sampling:
    call = node.call
    assert call.model is not None and call.method is not None
    slots = [name for name, _ in METHODS[call.method].outputs]
    return _Sampling(
        model=call.model,
        max_new_tokens=int(number_of(call, "max_new_tokens")),
        max_prompt_tokens=int(number_of(call, "max_prompt_tokens")),
        temperature=float(number_of(call, "temperature")),
        top_p=float(number_of(call, "top_p")),
        top_k=int(number_of(call, "top_k")),
        staleness=int(number_of(call, "staleness")),
        outputs={s: o for s, o in zip(slots, node.outputs, strict=False) if o in module.fields},
    )


def _generate(node: Node, module: Module) -> GenerateOp:
    return GenerateOp(
        **_common(node, module),
        **_sampling(node, module),
        prompts=node.call.args[0].name,
        n=int(number_of(node.call, "n")),
    )


def _extend(node: Node, module: Module) -> ExtendOp:
    bound = {a.param: a.name for a in node.call.args if not a.absent}
    return ExtendOp(
        **_common(node, module),
        **_sampling(node, module),
        tokens=bound["tokens"],
        response_mask=bound["response_mask"],
        rollout_logp=bound["rollout_logp"],
        observation=bound["observation"],
        done=bound.get("done"),
    )


def _collect(node: Node, module: Module) -> CollectOp | TakeOp:
    block = module.graph.block_of[node.block or node.id]
    outer = tuple(c.param or c.name for c in block.collect if c.param in module.fields)
    batch = module.batches[f"{block.id}.kept"]
    if node.block is None:
        return TakeOp(**_common(node, module), collection=block.id, outputs=outer, batch=batch)
    where, *collected = node.call.args
    return CollectOp(
        **_common(node, module),
        into=block.id,
        where=where.name,
        fields={a.name: o for a, o in zip(collected, outer, strict=True)},
        batch=batch,
    )


def _metric(node: Node, module: Module) -> MetricOp:
    bound = {a.param: a.name for a in node.call.args if not a.absent}
    return MetricOp(
        **_common(node, module),
        name=node.id,
        reduction=Reduction(node.call.function or ""),
        field=bound["field"],
        mask=bound.get("mask"),
    )


def _output(node: Node, module: Module) -> OutputOp:
    op = _common(node, module)
    every = int(number_of(node.call, "every"))
    # Inside a block, `every` could only make rarer what is rare already.
    op["guard"] = op["guard"] or (Guard(every=every) if every > 1 else None)
    return OutputOp(**op, name=node.id, fields=node.reads, per_prompt=_per_prompt(node, module))


def _infer(node: Node, module: Module) -> InferOp:
    call = node.call
    assert call.model is not None and call.method is not None
    logprob = call.method is Method.LOGPROB
    return InferOp(
        **_common(node, module),
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
        **_common(node, module),
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
        batch=batch_of(module, node),
        minibatch=minibatch_of(node, batch_of(module, node)),
        micro_batch_tokens=int(number_of(call, "micro_batch_tokens")),
        recompute=Recompute(str(option["recompute"] or Recompute.NONE)),
        logits=int(number_of(call, "logits")),
        temperature=temperature_of(call, module),
        skip_where_zero=node.skip_where_zero,
    )


_LOWER: dict[Method | None, Callable[[Node, Module], AnyOp]] = {
    None: _compute,
    Method.GENERATE: _generate,
    Method.EXTEND: _extend,
    Method.TRAIN: _train,
    Method.COLLECT: _collect,
    Method.METRIC: _metric,
    Method.OUTPUT: _output,
}
