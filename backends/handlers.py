"""One small function for each kind of op, and what they work on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msgspec.structs import replace
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Data, Ragged
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.data.loader import Loader
from rldsl.backends.data.reshard import reshard
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.backends.functions import Call, Functions, definition, raised
from rldsl.backends.metrics import StepMetrics, node_of
from rldsl.compiler.plan import (
    AnyOp,
    Arg,
    ComputeOp,
    FreeOp,
    FunctionSpec,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    Plan,
    ReshardOp,
    SaveOp,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.diagnostics import DiagnosticError, fail
from rldsl.types import FieldType, Reduce, TokenLoss


class Runtime:
    """One rank's state: models, samplers, loaders, resident fields. Collective over the world when made."""

    def __init__(
        self,
        plan: Plan,
        comm: Comm,
        *,
        steps: int,
        source_dir: Path,
        run_dir: Path,
        metrics: StepMetrics,
        ops: Sequence[AnyOp],
    ) -> None:
        self.plan, self.comm, self.steps, self.step, self.run_dir, self.metrics = (
            plan,
            comm,
            steps,
            0,
            run_dir,
            metrics,
        )
        self.source_dir, self.buffer = source_dir, Buffer()
        self.types = {f.name: FieldType.parse(f.type) for f in plan.fields}
        loads = [op for op in plan.ops() if isinstance(op, LoadOp)]
        assert loads, "the plan loads no prompts: the compiler refuses such programs"
        self.first_load, self.batch = loads[0].id, loads[0].batch
        # Not by this rank's ops: all ranks that hold a part of a model must load it alike.
        self.trained = frozenset(op.model for op in plan.ops() if isinstance(op, TrainOp))
        self._functions = Functions(source_dir)
        # Cheap things first: a bad data file or function is told before weights are read.
        self.loaders = {op.id: self._loader(op) for op in ops if isinstance(op, LoadOp)}
        self.calls = {op.id: self._function(op) for op in ops if isinstance(op, (ComputeOp, TrainOp))}
        self.models = self._load_models(ops)
        check_vocabularies(plan, {name: model.tokenizer for name, model in self.models.items()})
        # A rank that does not generate still takes part in gathering the weights. Each once: making one is collective.
        sampled = dict.fromkeys(op.model for op in ops if isinstance(op, (GenerateOp, SyncWeightsOp)))
        self.samplers = {name: Sampler(self.models[name], seed=plan.seed) for name in sampled}

    def _loader(self, op: LoadOp) -> Loader:
        group = self.group(op.group)
        return Loader(
            op,
            self.types,
            rank=group.rank,
            size=group.world_size,
            seed=self.plan.seed,
            source_dir=self.source_dir,
        )

    def _function(self, op: ComputeOp | TrainOp) -> Callable[..., Any]:
        return self._functions.find(self.spec_of(op))

    def _load_models(self, ops: Sequence[AnyOp]) -> dict[str, Model]:
        """A model that no op trains is loaded frozen: it needs neither masters nor an optimiser."""
        specs = {m.name: replace(m, trainable=m.trainable and m.name in self.trained) for m in self.plan.models}
        groups = {op.model: op.group for op in ops if isinstance(op, (TrainOp, InferOp))}
        groups = {op.model: op.group for op in ops if isinstance(op, SyncWeightsOp)} | groups
        groups = {op.model: op.group for op in ops if isinstance(op, GenerateOp)} | groups
        return {
            name: Model.load(spec, comm=self.group(groups[name]), seed=self.plan.seed)
            for name, spec in specs.items()
            if name in groups
        }

    def spec_of(self, op: ComputeOp | TrainOp) -> FunctionSpec:
        """The function that `op` calls."""
        return self.plan.function(op.loss if isinstance(op, TrainOp) else op.function)

    def file_of(self, spec: FunctionSpec) -> Path | None:
        """The user's file, or None for a shipped function."""
        return None if spec.file is None else self.source_dir / spec.file

    def group(self, name: str) -> Comm:
        """The ranks of a group of the plan, of which this rank is one."""
        comm = self.comm.group_of(self.plan.group_size(name, self.comm.world_size))
        assert comm is not None, f"rank {self.comm.rank} runs an op of group `{name}` but is not in it"
        return comm

    def begin(self, step: int) -> None:
        """A new step: nothing is resident."""
        self.step = step
        self.buffer.clear()

    def read(self, name: str, op: AnyOp) -> Column:
        """A resident field."""
        return self.buffer.get(name, op=op.id)

    def ragged(self, column: Column) -> Ragged:
        """The data of a field with a token axis."""
        assert isinstance(column.data, Ragged), "the plan's types say that this field is ragged"
        return column.data


def check_vocabularies(plan: Plan, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    """RL0610 unless each model that reads tokens has the vocabulary of the model whose rollout wrote them."""
    writers = {
        op.outputs["tokens"]: op.model for op in plan.ops() if isinstance(op, GenerateOp) and "tokens" in op.outputs
    }
    reads = [
        (op.model, writers[op.tokens])
        for op in plan.ops()
        if isinstance(op, (InferOp, TrainOp)) and op.tokens in writers
    ]
    for reader, writer in dict.fromkeys(reads):
        # Loaded by this rank: the ranks of another group check theirs.
        if reader == writer or reader not in tokenizers or writer not in tokenizers:
            continue
        here, there = tokenizers[reader].get_vocab(), tokenizers[writer].get_vocab()
        if here != there:
            _other_vocabulary(reader, here, writer, there)


def _other_vocabulary(reader: str, here: Mapping[str, int], writer: str, there: Mapping[str, int]) -> NoReturn:
    token = min(dict(here.items() ^ there.items()), key=lambda t: (there.get(t, len(there)), t))
    known = "is unknown" if token not in here else f"has id {here[token]}"
    wanted = "no id" if token not in there else f"id {there[token]}"
    fail(
        "RL0610",
        f"model `{reader}` reads the tokens that `{writer}` sampled, but has another vocabulary",
        expected=f"the {len(there)} tokens of `{writer}`, where {token!r} has {wanted}",
        found=f"{len(here)} tokens in `{reader}`, where {token!r} {known}",
        fix=f"`copy {writer}`, or for both sources with the same tokenizer (`scratch`: the same `alphabet`)",
    )


def load(rt: Runtime, op: LoadOp) -> None:
    """This rank's prompts of the step."""
    columns = rt.loaders[op.id].next(rt.step)
    for name, column in columns.items():
        data = column.data
        moved = data.to(rt.comm.device) if isinstance(data, Tensor) else data
        rt.buffer.put(name, Column(column.ids, moved))
    # Each input has as many rows a step, one for each prompt: they are the same prompts.
    if op.id == rt.first_load:
        rt.metrics.count("prompts", len(next(iter(columns.values()))))


def generate(rt: Runtime, op: GenerateOp) -> None:
    """`n` responses to each of this rank's prompts."""
    prompts = rt.read(op.prompts, op)
    assert isinstance(prompts.data, list)
    samples = rt.samplers[op.model].generate(prompts.data, prompts.ids, op, step=rt.step)
    made: dict[str, Data] = {
        "tokens": samples.tokens,
        "response_mask": samples.response_mask,
        "rollout_logp": samples.rollout_logp,
        "completions": samples.completions,
    }
    for output, field in op.outputs.items():
        rt.buffer.put(field, Column(samples.ids, made[output], op.n))
    rt.metrics.count("samples", len(samples.ids))
    rt.metrics.count("tokens", len(samples.tokens.values))
    rt.metrics.count("response_tokens", int(samples.response_mask.values.sum()))


def infer(rt: Runtime, op: InferOp) -> None:
    """Log-probs or values of this rank's samples."""
    columns = rt.buffer.aligned([op.tokens, op.response_mask], per_prompt=rt.read(op.tokens, op).per_prompt, op=op.id)
    tokens, mask = columns[op.tokens], columns[op.response_mask]
    model = rt.models[op.model]
    if op.method is InferMethod.LOGPROB:
        result = model.logprob(rt.ragged(tokens), rt.ragged(mask), temperature=op.temperature)
    else:
        result = model.value(rt.ragged(tokens), rt.ragged(mask))
    rt.buffer.put(op.output, Column(tokens.ids, result, tokens.per_prompt))


def compute(rt: Runtime, op: ComputeOp) -> None:
    """Call a function on this rank's rows."""
    spec = rt.spec_of(op)
    columns = rt.buffer.aligned(op.reads, per_prompt=op.per_prompt, op=op.id)
    call = Call(
        spec=spec,
        function=rt.calls[op.id],
        file=rt.file_of(spec),
        columns={a.param: columns[a.field] for a in op.args if a.field is not None},
        absent=_absent(op.args),
        params=op.params,
        outputs=[None if name is None else (name, rt.types[name]) for name in op.outputs],
        per_prompt=op.per_prompt,
        reduce=_reduce(rt.group(op.group)) if spec.reduces else None,
        status=rt.comm.status,
    )
    for name, column in call.run().items():
        rt.buffer.put(name, column)
        if isinstance(column.data, Tensor) and column.data.is_floating_point():
            rt.metrics.add_field(name, column.data)


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
        prompt_index=tokens.prompt_ids % rt.batch,
        num_prompts=rt.batch,
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
            raised(f"the loss `{spec.name}` raised {type(error).__name__} in step {rt.step}", error, file)
        if not isinstance(made, TokenLoss):
            found = type(made).__name__
            fail(
                "RL0706",
                f"the loss `{spec.name}` returned no TokenLoss",
                span=definition(function, file),
                expected="rl.TokenLoss(loss, metrics)",
                found=found,
            )
        return made

    return loss


def move(rt: Runtime, op: ReshardOp) -> None:
    """Give the fields the layout of another group."""
    target = rt.plan.group_size(op.target, rt.comm.world_size)
    schema = {n: (rt.types[n], rt.plan.field(n).per_prompt) for n in op.fields}
    mine = {n: column for n in op.fields if (column := rt.buffer.take(n)) is not None}
    moved = reshard(mine, schema, rt.group(op.group), target=target, batch=rt.batch)
    for name, column in moved.items() if rt.comm.rank < target else ():
        rt.buffer.put(name, column)


def sync_weights(rt: Runtime, op: SyncWeightsOp) -> None:
    """The sampler takes the weights as trained so far; those of a model that no op trains it took when made."""
    if op.model in rt.trained:
        rt.samplers[op.model].sync(rt.models[op.model])


def free(rt: Runtime, op: FreeOp) -> None:
    """Drop fields."""
    for name in op.fields:
        rt.buffer.free(name, op=op.id)


def save(rt: Runtime, op: SaveOp) -> None:
    """A checkpoint, at the last step and every `every` steps."""
    last, due = rt.step + 1 == rt.steps, op.every > 0 and (rt.step + 1) % op.every == 0
    if not (last or due):
        return
    path = rt.run_dir / op.path
    try:
        rt.models[op.model].save(path)
    except (OSError, SafetensorError) as error:
        fail("RL0101", f"cannot write the checkpoint `{path}`", found=str(error), fix="is there room on the disk?")


HANDLERS: dict[type[AnyOp], Callable[[Runtime, Any], None]] = {
    LoadOp: load,
    GenerateOp: generate,
    InferOp: infer,
    ComputeOp: compute,
    TrainOp: train,
    ReshardOp: move,
    SyncWeightsOp: sync_weights,
    FreeOp: free,
    SaveOp: save,
}
