"""Types and rows: every op reads what it can work with, and rows that belong together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import msgspec

from rldsl.compiler.ir import Method
from rldsl.compiler.methods import METHODS
from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    LoadOp,
    MetricOp,
    OutputOp,
    ReshardOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.verify.facts import Facts, Rollout
from rldsl.types import PROMPT, DType, FieldType

_FLAG = FieldType(DType.BOOL, (PROMPT,))


class Rows(msgspec.Struct, frozen=True):
    """Which rows a field has. Two fields align when all of this agrees, or one has a row a prompt.

    `prompts` tells sets of prompts apart, of `batch` prompts each; `rollout` is what made the samples, None for prompt
    rows; `sequence` what made the tokens, None for a field without. `validates`: the same rows in every step.
    """

    prompts: Hashable
    batch: int
    per_prompt: int = 1
    rollout: Hashable = None
    sequence: Hashable = None
    validates: bool = False


def rows(facts: Facts) -> Iterator[str]:
    """Derives the rows of every field from the ops, and compares them with what the plan says of it."""
    return _Rows(facts).problems()


class _Rows:
    def __init__(self, facts: Facts) -> None:
        self.facts, self.rows = facts, dict[str, Rows]()
        self.collects: dict[str, list[CollectOp]] = {}
        self.streams: dict[str, list[LoadOp]] = {}
        for op in facts.ops:
            if isinstance(op, CollectOp):
                self.collects.setdefault(op.into, []).append(op)
            if isinstance(op, LoadOp):
                self.streams.setdefault(op.stream, []).append(op)

    def problems(self) -> Iterator[str]:
        """Ops in an order in which writers precede readers; what an op in error would write is not looked at."""
        waiting: dict[str, list[AnyOp]] = {}
        for first in self.facts.ops:
            ready = [first]
            while ready:
                op = ready.pop()
                missing = next((n for n in self.needs(op) if n not in self.rows), None)
                if missing is not None:
                    waiting.setdefault(missing, []).append(op)
                    continue
                yield from self.step(op)
                for name in () if isinstance(op, ReshardOp) else op.writes:
                    ready += waiting.pop(name, ())
        for stream, ops in self.streams.items():
            yield from _stream(stream, ops)

    def needs(self, op: AnyOp) -> Iterator[str]:
        yield from op.reads
        if isinstance(op, TakeOp):
            for each in self.collects.get(op.collection, ()):
                yield from each.fields

    def step(self, op: AnyOp) -> Iterator[str]:
        check = _CHECKS.get(type(op))
        if check is None:
            return
        yield from check(self, op)
        for name in () if isinstance(op, ReshardOp) else op.writes:
            yield from self.declared(op, name)

    def declared(self, op: AnyOp, name: str) -> Iterator[str]:
        """What the plan says of a field, beside what its writer makes of it."""
        found, spec, kind = self.rows.get(name), self.facts.specs[name], self.facts.types[name]
        if found is None:
            return
        if spec.per_prompt != found.per_prompt:
            yield f"`{op.id}` writes `{name}` with {found.per_prompt} rows a prompt, not {spec.per_prompt}"
        if kind.unit == PROMPT and found.per_prompt != 1:
            yield f"`{op.id}` writes `{name}` with {found.per_prompt} rows a prompt as {kind}"

    def typed(self, op: AnyOp, name: str, want: FieldType | Sequence[FieldType], slot: str) -> Iterator[str]:
        kinds, have = (want,) if isinstance(want, FieldType) else want, self.facts.types[name]
        if have not in kinds:
            yield f"`{op.id}`: `{name}` is {have}, and {slot} is {' or '.join(map(str, kinds))}"

    def made(
        self, op: AnyOp, outputs: dict[str, str], method: Method, found: Rows, sequence: Hashable
    ) -> Iterator[str]:
        """The outputs of a method of a model."""
        types = dict(METHODS[method].outputs)
        for slot, name in outputs.items():
            if slot not in types:
                yield f"`{op.id}` has no output `{slot}`"
                continue
            yield from self.typed(op, name, types[slot], f"its output `{slot}`")
            self.rows[name] = msgspec.structs.replace(found, sequence=sequence if types[slot].ragged else None)

    def aligned(self, op: AnyOp, given: Sequence[str]) -> tuple[Rows, list[str]]:
        """The rows of an op that reads `given`, at least one field, and what speaks against it."""
        found = [self.rows[n] for n in given]
        whole = max(found, key=lambda r: (r.per_prompt, r.rollout is not None))
        problems = []
        if len({r.prompts for r in found}) > 1:
            problems.append(f"`{op.id}` reads rows of different prompts: {', '.join(given)}")
        if len({r.rollout for r in found} - {None}) > 1:
            problems.append(f"`{op.id}` reads samples of different rollouts: {', '.join(given)}")
        if len({r.per_prompt for r in found} - {1}) > 1:
            problems.append(f"`{op.id}` reads fields with different numbers of rows a prompt: {', '.join(given)}")
        return whole, problems

    def sequence(self, op: AnyOp, given: Sequence[str]) -> tuple[Hashable, list[str]]:
        """The one sequence of tokens that all ragged fields of `given` are of."""
        ragged = {n: self.rows[n].sequence for n in given if self.facts.types[n].ragged}
        several = len(set(ragged.values())) > 1
        problems = [f"`{op.id}` reads tokens of different sequences: {', '.join(ragged)}"] if several else []
        return next(iter(ragged.values()), None), problems

    def load(self, op: LoadOp) -> Iterator[str]:
        if not op.columns:
            yield f"`{op.id}` loads nothing"
        if op.names and (len(op.names) != len(op.columns) or len(set(op.names)) != len(op.names)):
            yield f"`{op.id}` has {len(op.columns)} columns and other names for them"
        if op.first != (op.guard is not None and op.guard.every > 0):
            yield f"`{op.id}`: what runs now and then reads the first rows each time, and nothing else does"
        for name in op.columns:
            kind = self.facts.types[name]
            if kind.unit != PROMPT or kind.ragged:
                yield f"`{op.id}` loads `{name}` as {kind}, and an input has one value a prompt"
            key = (op.guard, op.batch, op.rounds, op.round, op.first)
            self.rows[name] = Rows(key, op.batch, validates=op.first)

    def generate(self, op: GenerateOp) -> Iterator[str]:
        prompts = self.rows[op.prompts]
        yield from self.typed(op, op.prompts, METHODS[Method.GENERATE].inputs[0].types, "what it goes on from")
        if prompts.rollout is not None and op.n != 1:
            yield f"`{op.id}` goes on from samples and gives one response to each, not {op.n}"
        found = msgspec.structs.replace(prompts, per_prompt=prompts.per_prompt * op.n, rollout=prompts.rollout or op.id)
        yield from self.made(op, op.outputs, Method.GENERATE, found, op.id)

    def extend(self, op: ExtendOp) -> Iterator[str]:
        yield from self.inputs(op, Method.EXTEND)
        found, problems = self.aligned(op, op.reads)
        yield from problems
        yield from self.sequence(op, op.reads)[1]
        yield from self.made(op, op.outputs, Method.EXTEND, found, op.id)

    def infer(self, op: InferOp) -> Iterator[str]:
        found, problems = self.aligned(op, op.reads)
        sequence, mixed = self.sequence(op, op.reads)
        yield from (*problems, *mixed)
        for part in op.parts:
            method = Method(part.method.value)
            yield from self.inputs(part, method)
            yield from self.made(part, {METHODS[method].outputs[0][0]: part.output}, method, found, sequence)

    def inputs(self, op: Rollout | InferOp | TrainOp, method: Method) -> Iterator[str]:
        """What a method reads, each under its own name in the op, has the method's types."""
        for param in METHODS[method].inputs:
            name = getattr(op, param.name)
            if name is not None:
                yield from self.typed(op, name, param.types, f"its `{param.name}`")

    def compute(self, op: ComputeOp) -> Iterator[str]:
        yield from _arguments(op, op.args)
        reads, writes = op.reads, op.writes
        if not reads:
            yield f"`{op.id}` reads no field: there are no rows to compute on"
            return
        found, problems = self.aligned(op, reads)
        yield from problems
        if any(a.current for a in op.args):
            yield f"`{op.id}` asks for log-probs of a training that it is not part of"
        if op.per_prompt != found.per_prompt:
            yield f"`{op.id}` works on {found.per_prompt} rows a prompt, not {op.per_prompt}"
        yield from _group(op, found)
        sequence, mixed = self.sequence(op, reads)
        kinds = [self.facts.types[n] for n in writes]
        if any(k.ragged for k in kinds):
            yield from mixed
            if sequence is None:
                yield f"`{op.id}` writes a value for each token, and reads no field that has tokens"
        if op.per_prompt > 1 and any(k.unit == PROMPT for k in kinds):
            if "group" not in op.params:
                yield f"`{op.id}` makes prompt rows of samples, and is no function of groups"
            if any(k.unit == PROMPT and k.ragged for k in kinds):
                yield f"`{op.id}` makes tokens of prompt rows"
        for name, kind in zip(writes, kinds, strict=True):
            per_prompt, rollout = (1, None) if kind.unit == PROMPT else (found.per_prompt, found.rollout)
            own = sequence if kind.ragged else None
            self.rows[name] = Rows(found.prompts, found.batch, per_prompt, rollout, own, found.validates)

    def train(self, op: TrainOp) -> Iterator[str]:
        yield from _arguments(op, op.args)
        yield from self.inputs(op, Method.TRAIN)
        found, problems = self.aligned(op, op.reads)
        yield from (*problems, *self.sequence(op, op.reads)[1])
        if op.batch != found.batch:
            yield f"`{op.id}` trains on {op.batch} prompts, but its rows are of {found.batch}"
        if found.validates:
            yield f"`{op.id}` trains on the rows of a validation"
        yield from _group(op, found)
        skip = op.skip_where_zero
        if skip is not None:
            if all(a.field != skip for a in op.args):
                yield f"`{op.id}` skips rows where `{skip}` is 0, which the loss does not read"
            elif self.facts.types[skip].ragged or self.facts.types[skip].dtype is not DType.F32:
                yield f"`{op.id}` skips rows where `{skip}` is 0, which is no number a row"

    def collect(self, op: CollectOp) -> Iterator[str]:
        yield from self.typed(op, op.where, _FLAG, "what it asks")
        if len({self.rows[n].prompts for n in (op.where, *op.fields)}) > 1:
            yield f"`{op.id}` keeps rows of prompts that `{op.where}` does not speak of"
        for name, outer in op.fields.items():
            if self.facts.types[name] != self.facts.types.get(outer):
                yield f"`{op.id}` keeps `{name}`, {self.facts.types[name]}, as `{outer}` of another type"
            elif self.facts.specs[name].per_prompt != self.facts.specs[outer].per_prompt:
                yield f"`{op.id}` keeps `{name}` as `{outer}` with another number of rows a prompt"

    def take(self, op: TakeOp) -> Iterator[str]:
        """Rows kept in all rounds: alike where they are alike in each."""
        inner = [{outer: self.rows[n] for n, outer in c.fields.items()} for c in self.collects.get(op.collection, ())]
        for name in op.outputs:
            kept = [each[name] for each in inner if name in each]
            if not kept:
                yield f"`{op.id}` takes `{name}`, which `{op.collection}` does not hold"
                continue
            rollouts, sequences = tuple(k.rollout for k in kept), tuple(k.sequence for k in kept)
            self.rows[name] = Rows(
                ("taken", op.collection),
                op.batch,
                kept[0].per_prompt,
                None if None in rollouts else rollouts,
                None if None in sequences else sequences,
                any(k.validates for k in kept),
            )

    def metric(self, op: MetricOp) -> Iterator[str]:
        kind = self.facts.types[op.field]
        if kind.dtype is DType.TEXT:
            yield f"`{op.id}` reduces `{op.field}`, which is {kind}"
        if op.mask is not None:
            yield from self.typed(op, op.mask, METHODS[Method.METRIC].inputs[1].types, "a mask")
            yield from (*self.aligned(op, op.reads)[1], *self.sequence(op, op.reads)[1])
            if not kind.ragged:
                yield f"`{op.id}` masks `{op.field}`, which has no tokens"

    def output(self, op: OutputOp) -> Iterator[str]:
        if not op.fields:
            return
        found, problems = self.aligned(op, op.fields)
        yield from problems
        if op.per_prompt != found.per_prompt:
            yield f"`{op.id}` puts out {found.per_prompt} rows a prompt, not {op.per_prompt}"

    def move(self, op: ReshardOp) -> Iterator[str]:
        for name in op.fields:
            if self.rows[name].batch != op.batch:
                yield f"`{op.id}` lays `{name}` out as of {op.batch} prompts, but it is of {self.rows[name].batch}"


_CHECKS: dict[type[AnyOp], Callable[[_Rows, Any], Iterator[str]]] = {
    LoadOp: _Rows.load,
    GenerateOp: _Rows.generate,
    ExtendOp: _Rows.extend,
    InferOp: _Rows.infer,
    ComputeOp: _Rows.compute,
    TrainOp: _Rows.train,
    CollectOp: _Rows.collect,
    TakeOp: _Rows.take,
    MetricOp: _Rows.metric,
    OutputOp: _Rows.output,
    ReshardOp: _Rows.move,
}


def _arguments(op: ComputeOp | TrainOp, args: tuple[Arg, ...]) -> Iterator[str]:
    given = [a.param for a in args]
    if len(set(given)) < len(given):
        yield f"`{op.id}` gives a parameter of its function two values"
    for name in op.params.keys() & set(given):
        yield f"`{op.id}` gives the parameter `{name}` both a field and a number"
    if any(a.current and a.field is not None for a in args):
        yield f"`{op.id}` gives a parameter both a field and the running log-probs"


def _group(op: ComputeOp | TrainOp, found: Rows) -> Iterator[str]:
    group = op.params.get("group", found.per_prompt)
    if group != found.per_prompt:
        yield f"`{op.id}` works on groups of {group}, and a prompt has {found.per_prompt} rows"


def _stream(name: str, ops: Sequence[LoadOp]) -> Iterator[str]:
    """Ops of one stream take turns: each has a round of its own, and together they have them all."""
    terms = {(o.batch, o.rounds, o.first, o.group, o.source.kind, len(o.names) > 0) for o in ops}
    arguments = [{k: v for k, v in o.source.args.items() if k != "template"} for o in ops]
    if len(terms) > 1 or any(a != arguments[0] for a in arguments):
        yield f"the loads of stream `{name}` do not agree: {', '.join(o.id for o in ops)}"
    elif sorted(o.round for o in ops) != list(range(ops[0].rounds)):
        yield f"the loads of stream `{name}` are not one for each of {ops[0].rounds} rounds"
