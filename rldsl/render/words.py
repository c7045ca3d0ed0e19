"""What an op does, in words a researcher reads without knowing the compiler."""

from __future__ import annotations

from collections.abc import Mapping

from rldsl.compiler.plan import (
    AnyOp,
    Arg,
    ComputeOp,
    FreeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    Plan,
    ReshardOp,
    SaveOp,
    Scalar,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
)

_INFER = {
    InferMethod.LOGPROB: "log-probs of the responses by",
    InferMethod.VALUE: "a value for every response token by",
}
_SYNC = {
    SyncKind.LOCAL: "in this rank's memory",
    SyncKind.ALL_GATHER: "all-gather over the ranks",
}


def describe(op: AnyOp) -> str:
    """One sentence without reads and writes: `8 samples a prompt by actor, up to 24 tokens, ...`."""
    match op:
        case LoadOp():
            origin = source_words(op.source.kind, op.source.args)
            return f"this rank's share of the next {plural(op.batch, 'prompt')} from {origin}"
        case GenerateOp():
            return f"{plural(op.n, 'sample')} a prompt by {op.model}, {_sampling(op)}"
        case InferOp():
            return f"{_INFER[op.method]} {op.model}"
        case ComputeOp():
            return f"{op.function}{_keywords(op.params)}"
        case TrainOp():
            return f"{op.model} by {op.loss}{_keywords(op.params)}; {_schedule(op)}"
        case _:
            return _housekeeping(op)


def _housekeeping(op: ReshardOp | SyncWeightsOp | FreeOp | SaveOp) -> str:
    match op:
        case ReshardOp():
            return f"move rows from group {op.source} to group {op.target} (all-to-all)"
        case SyncWeightsOp():
            return f"trained weights of {op.model} to its sampler, {_SYNC[op.sync]}"
        case FreeOp():
            return f"drop {', '.join(op.fields)}"
        case SaveOp():
            when = f"every {op.every} steps and at the end" if op.every else "at the end"
            return f"write {op.model} to {op.path}, {when}"


def flow(op: AnyOp) -> str:
    """`reads -> writes`; empty where no fields flow."""
    if isinstance(op, ReshardOp):
        return ", ".join(op.fields)
    reads = [_argument(a) for a in op.args if a.field] if isinstance(op, (ComputeOp, TrainOp)) else list(op.reads)
    if isinstance(op, TrainOp):
        reads = [op.tokens, op.response_mask, *reads]
        reads += [_argument(a) for a in op.args if a.current]
    left, right = ", ".join(dict.fromkeys(reads)), ", ".join(op.writes)
    return f"{left} -> {right}".strip() if right else left


def ranks_words(plan: Plan) -> str:
    """How many ranks may run the plan."""
    if plan.world_size is not None:
        return f"exactly {plural(plan.world_size, 'rank')}"
    return f"any number of ranks that divides {plan.divides}"


def source_words(kind: str, args: Mapping[str, Scalar]) -> str:
    """`reasoning_gym(name="basic_arithmetic", max_digits=2)`; without arguments only the kind."""
    return f"{kind}{_keywords(args)}"


def scalar(value: Scalar) -> str:
    """A number or string as one writes it in a `.rl` file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def number(value: float) -> str:
    """Short: `0.2`, `1`, `1e-5`."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e+")


def plural(count: int, thing: str) -> str:
    """`1 sample`, `8 samples`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _argument(arg: Arg) -> str:
    """The field, and the parameter it is bound to where the names differ."""
    if arg.current:
        return f"{arg.param}=current"
    return str(arg.field) if arg.field == arg.param else f"{arg.param}={arg.field}"


def _sampling(op: GenerateOp) -> str:
    parts = [f"up to {plural(op.max_new_tokens, 'token')}", f"temperature {number(op.temperature)}"]
    parts += [f"top-p {number(op.top_p)}"] if op.top_p < 1 else []
    parts += [f"top-k {op.top_k}"] if op.top_k else []
    return ", ".join(parts)


def _schedule(op: TrainOp) -> str:
    """Passes over the batch, minibatch, reduction, learning rate."""
    passes = "1 pass" if op.epochs == 1 else f"{op.epochs} passes"
    reduction = op.aggregate.value.replace("_", "-")
    return f"{passes} in minibatches of {plural(op.minibatch, 'prompt')}, {reduction}, lr {number(op.lr)}"


def _keywords(params: Mapping[str, Scalar]) -> str:
    return f"({_pairs(params)})" if params else ""


def _pairs(params: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{k}={scalar(v)}" for k, v in params.items())
