"""One small function for each kind of op."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Data, Ragged
from rldsl.backends.data.reshard import dealt, reshard
from rldsl.backends.engines.generate import Samples
from rldsl.backends.engines.train import TrainBatch
from rldsl.backends.functions import Call, definition, raised
from rldsl.backends.metrics import is_first, node_of
from rldsl.backends.runtime import Running, Runtime
from rldsl.backends.weights import transfer, transfer_later
from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    MetricOp,
    OffloadOp,
    OnloadOp,
    OutputOp,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.plan import FunctionSpec
from rldsl.diagnostics import DiagnosticError, fail
from rldsl.types import Reduce, TokenLoss


def load(rt: Runtime, op: LoadOp) -> None:
    """This rank's next prompts of the stream."""
    loader = rt.loaders[op.stream]
    columns = loader.next(op, rt.step)
    for name, column in columns.items():
        rt.buffer.put(name, column.to(rt.comm.device))
    rt.metrics.count_prompts(op, len(next(iter(columns.values()))))
    rt.metrics.add_seconds(op.id, loader.hidden)
    if op.prefetch and not rt.last_step:
        loader.read_ahead(rt.reading)


def generate(rt: Runtime, op: GenerateOp) -> None:
    """`n` responses to each of this rank's prompts; to a row of samples one, which keeps its id."""
    prompts = rt.read(op.prompts, op)
    assert isinstance(prompts.data, list)
    assert prompts.per_prompt == 1 or op.n == 1, "only prompts get several samples: the compiler refuses others"
    made = rt.samplers[op.model, op.staleness].generate(prompts.data, prompts.ids, op, step=rt.step)
    _put_samples(rt, op, made, prompts.per_prompt * op.n)
    rt.metrics.add_rollout(op, made.drawn)
    rt.metrics.count("samples", len(made.ids))
    rt.metrics.count("tokens", len(made.tokens.values))
    rt.metrics.count("response_tokens", int(made.response_mask.values.sum()))


def extend(rt: Runtime, op: ExtendOp) -> None:
    """What the environment said, and a further response, at the end of each of this rank's sequences."""
    per_prompt = rt.read(op.tokens, op).per_prompt
    columns = rt.buffer.aligned(op.reads, per_prompt=per_prompt, op=op.id)
    tokens, mask, observations = columns[op.tokens], columns[op.response_mask], columns[op.observation].data
    done = None if op.done is None else columns[op.done].data
    assert isinstance(observations, list) and (done is None or isinstance(done, Tensor))
    made = rt.samplers[op.model, op.staleness].extend(
        rt.ragged(tokens),
        rt.ragged(mask),
        rt.ragged(columns[op.rollout_logp]),
        observations,
        done,
        tokens.ids,
        op,
        step=rt.step,
    )
    _put_samples(rt, op, made, per_prompt)
    rt.metrics.add_rollout(op, made.drawn)
    new = int(made.response_mask.values.sum()) - int(rt.ragged(mask).values.sum())
    rt.metrics.count("tokens", new)
    rt.metrics.count("response_tokens", new)


def _put_samples(rt: Runtime, op: GenerateOp | ExtendOp, made: Samples, per_prompt: int) -> None:
    results: dict[str, Data] = {
        "tokens": made.tokens,
        "response_mask": made.response_mask,
        "rollout_logp": made.rollout_logp,
        "completions": made.completions,
    }
    for output, field in op.outputs.items():
        rt.buffer.put(field, Column(made.ids, results[output], per_prompt))


def infer(rt: Runtime, op: InferOp) -> None:
    """Log-probs, values or scores of this rank's samples; all that one op is to find by one forward."""
    columns = rt.buffer.aligned(op.reads, per_prompt=rt.read(op.tokens, op).per_prompt, op=op.id)
    rows, model = columns[op.tokens], rt.models[op.model]
    masks = {name: rt.ragged(columns[name]) for name in op.reads[1:]}
    results: Sequence[Data]
    if op.method is InferMethod.SCORE:
        results = [model.score(rt.ragged(rows), masks[op.response_mask], micro_batch_tokens=op.micro_batch_tokens)]
    else:
        asks = [rt.models[p.model].ask(masks[p.response_mask], p.temperature, op.logits) for p in op.parts]
        results = model.answers(rt.ragged(rows), asks, micro_batch_tokens=op.micro_batch_tokens)
    for name, result in zip(op.writes, results, strict=True):
        _put_result(rt, name, Column(rows.ids, result, rows.per_prompt))


def _put_result(rt: Runtime, name: str, column: Column) -> None:
    """A field that was computed: with one f32 a row, its mean is logged."""
    rt.buffer.put(name, column.to(rt.comm.device))
    if isinstance(column.data, Tensor):
        rt.metrics.add_field(name, column.data)


def compute(rt: Runtime, op: ComputeOp) -> None:
    """Call a function on this rank's rows, or have it called in the background."""
    call = _call(rt, op)
    if op.background:
        task = rt.calling.start(functools.partial(call.called, call.prepared()))
        rt.running[op.id] = Running(task, lambda results: _put_results(rt, call.checked(results)))
        return
    _put_results(rt, call.run())


def _put_results(rt: Runtime, columns: Mapping[str, Column]) -> None:
    for name, column in columns.items():
        _put_result(rt, name, column)


def wait(rt: Runtime, op: WaitOp) -> None:
    """What has begun in the background ends here; its seconds are its own, those of the wait are of waiting."""
    running = rt.running.pop(op.begun, None)
    if running is None:  # it has run where it began
        return
    made = running.task.result()
    rt.metrics.add_seconds(op.begun, running.task.seconds)
    running.ended(made)


def _call(rt: Runtime, op: ComputeOp) -> Call:
    spec = rt.spec_of(op)
    columns = rt.buffer.aligned(op.reads, per_prompt=op.per_prompt, op=op.id)
    return Call(
        spec=spec,
        function=rt.calls[op.id],
        file=rt.file_of(spec),
        columns={a.param: columns[a.field] for a in op.args if a.field is not None},
        absent=_absent(op.args),
        params=op.params,
        outputs=[None if name is None else (name, rt.types[name]) for name in op.outputs],
        per_prompt=op.per_prompt,
        batch=rt.prompts[op.reads[0]],
        reduce=_reduce(rt.group(op.group)) if spec.reduces else None,
        status=rt.comm.status,
    )


def _reduce(comm: Comm) -> Reduce:
    """What a function's `reduce` is: as strict on one rank as on many."""

    def reduce(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"reduce takes a tensor, not {type(tensor).__name__}")
        return comm.all_reduce(tensor)

    return reduce


def _absent(args: Sequence[Arg]) -> list[str]:
    return [a.param for a in args if a.field is None and not a.current]


def train(rt: Runtime, op: TrainOp) -> None:
    """Optimiser steps on this rank's share of the batch."""
    per_prompt = rt.read(op.tokens, op).per_prompt
    columns = rt.buffer.aligned(op.reads, per_prompt=per_prompt, op=op.id)
    tokens = columns[op.tokens]
    batch = TrainBatch(
        tokens=rt.ragged(tokens),
        response_mask=rt.ragged(columns[op.response_mask]),
        args={a.param: None if a.field is None else columns[a.field].data for a in op.args if not a.current},
        prompt_index=tokens.prompt_ids % op.batch,
        num_prompts=op.batch,
    )
    spec = rt.spec_of(op)
    loss = _guarded(rt.calls[op.id], spec, rt.file_of(spec), rt)
    rt.metrics.add_global(node_of(op), rt.models[op.model].train(op, batch, loss))


def _guarded(
    function: Callable[..., Any], spec: FunctionSpec, file: Path | None, rt: Runtime
) -> Callable[..., TokenLoss]:
    """The loss, with what it raises told as the user's (RL0705) and its result's type checked (RL0706)."""

    @functools.wraps(function)
    def loss(*args: Any, **keywords: Any) -> TokenLoss:
        try:
            made = function(*args, **keywords)
        except DiagnosticError:
            raise
        except (Exception, SystemExit) as error:
            step = rt.comm.status.step_words
            raised(f"the loss `{spec.name}` raised {type(error).__name__} in {step}", error, file)
        if not isinstance(made, TokenLoss):
            found = type(made).__name__
            fail(
                "RL0706",
                f"the loss `{spec.name}` returned no TokenLoss",
                span=definition(function),
                expected="rl.TokenLoss(loss, metrics)",
                found=found,
            )
        return made

    return loss


def move(rt: Runtime, op: ReshardOp) -> None:
    """Give the fields the layout of another group, or a copy of them."""
    comm, world = rt.group(op.group), rt.comm.world_size
    source, target = (dealt(rt.plan.group(g), comm.members, world) for g in (op.source, op.target))
    rt.buffer.layout = rt.layouts[op.source]
    mine = {n: column for n in op.fields if (column := rt.buffer.take(n, keep=n in op.keeps)) is not None}
    moved = reshard(mine, rt.schema(op.fields), comm, source=source, target=target, batch=op.batch)
    rt.buffer.layout = rt.layouts[op.target]
    for name, column in moved.items() if target.at[comm.rank] is not None else ():
        rt.buffer.put(name, column)


def sync_weights(rt: Runtime, op: SyncWeightsOp) -> None:
    """The sampler takes the weights as trained so far; those of a model that no op trains it took when made."""
    if op.model not in rt.trained:
        return
    way, model, sampler = rt.route(op), rt.models[op.model], rt.samplers.get((op.model, op.staleness))
    beside = op.background and (rt.comm.concurrent or not op.collective)
    rt.residency.renew(op)
    if not beside:
        transfer(way, rt.comm, model, sampler)
        return
    work, status, step = transfer_later(way, rt.beside, model, sampler), rt.beside.status, rt.step

    def transferred() -> None:
        status.enter(step=step, op=op.id, node=op.node)
        work()

    rt.running[op.id] = Running(rt.transferring.start(transferred), _no_more)


def _no_more(_: None) -> None:
    """Of what has run there is nothing but that it has."""


def collect(rt: Runtime, op: CollectOp) -> None:
    """Keep the prompts that pass the filter."""
    columns = {field: rt.read(name, op) for name, field in op.fields.items()}
    rt.collection(op.into, op.batch).add(rt.read(op.where, op), columns, rt.group(op.group))


def take(rt: Runtime, op: TakeOp) -> None:
    """The prompts kept become rows like those of a rollout."""
    collection, comm = rt.collection(op.collection, op.batch), rt.group(op.group)
    layout = dealt(rt.plan.group(op.group), comm.members, rt.comm.world_size)
    for name, column in collection.take(rt.schema(op.outputs), comm, layout).items():
        rt.buffer.put(name, column)
        if isinstance(column.data, Tensor):
            rt.metrics.add_field(name, column.data)
    rt.metrics.add_global(op.collection, {"kept": collection.kept, "rounds": collection.rounds})


def metric(rt: Runtime, op: MetricOp) -> None:
    """This rank's part of a number of the log."""
    columns = rt.buffer.aligned(op.reads, per_prompt=rt.read(op.field, op).per_prompt, op=op.id)
    data = columns[op.field].data
    assert not isinstance(data, list), "a text has no mean: the compiler refuses that"
    values = data.values if isinstance(data, Ragged) else data
    if op.mask is not None:
        assert isinstance(data, Ragged), "a mask picks tokens: the compiler refuses it for other fields"
        values = values[rt.ragged(columns[op.mask]).values]
    rt.metrics.add_metric(op, values)


def output(rt: Runtime, op: OutputOp) -> None:
    """Rows for the user to read."""
    if not is_first(rt.plan.group(op.group), rt.comm.rank, rt.comm.world_size):
        return
    columns = rt.buffer.aligned(op.fields, per_prompt=op.per_prompt, op=op.id)
    rt.outputs.write(op.name, rt.step, columns)


def free(rt: Runtime, op: FreeOp) -> None:
    """Drop fields; those of an op that has a guard, if it has run."""
    for name in op.fields:
        if op.guard is None:
            rt.buffer.free(name, op=op.id)
        else:
            # Not by asking the guard again: what it says may have changed since.
            rt.buffer.take(name)


def save(rt: Runtime, op: SaveOp) -> None:
    """A checkpoint, at the last step and every `every` steps."""
    if not (rt.last_step or (op.every > 0 and (rt.step + 1) % op.every == 0)):
        return
    path = rt.run_dir / op.path
    try:
        rt.models[op.model].save(path)
    except (OSError, SafetensorError) as error:
        fail("RL0101", f"cannot write the checkpoint `{path}`", found=str(error), fix="is there room on the disk?")


def onload(rt: Runtime, op: OnloadOp) -> None:
    """A state of a model comes back to the device, or begins to."""
    coming = rt.residency.onload(op)
    if coming is not None:
        rt.running[op.id] = Running(coming, _no_more)


def offload(rt: Runtime, op: OffloadOp) -> None:
    """A state of a model leaves the device."""
    rt.residency.offload(op)


HANDLERS: dict[type[AnyOp], Callable[[Runtime, Any], None]] = {
    LoadOp: load,
    GenerateOp: generate,
    ExtendOp: extend,
    InferOp: infer,
    ComputeOp: compute,
    WaitOp: wait,
    TrainOp: train,
    ReshardOp: move,
    SyncWeightsOp: sync_weights,
    CollectOp: collect,
    TakeOp: take,
    MetricOp: metric,
    OutputOp: output,
    FreeOp: free,
    SaveOp: save,
    OnloadOp: onload,
    OffloadOp: offload,
}
