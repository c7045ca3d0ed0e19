"""What the ops of a program work on: one rank's models, samplers, streams, collections and resident fields."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from rldsl.backends.background import Background, Begun
from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.data.collection import Collection
from rldsl.backends.data.loader import Loader
from rldsl.backends.engines.engine import TRANSFORMERS, Engine
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.functions import Functions
from rldsl.backends.metrics import StepMetrics
from rldsl.backends.outputs import Outputs
from rldsl.backends.residency import Residency
from rldsl.backends.weights import Route, groups_beside, members, route
from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferOp,
    LoadOp,
    State,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    parts,
)
from rldsl.compiler.plan import FunctionSpec, Plan, canonical
from rldsl.diagnostics import fail
from rldsl.types import FieldType

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Running(Generic[T]):
    """What runs in the background, and what is done with its result when it is waited for."""

    task: Begun[T]
    ended: Callable[[T], None]


class Runtime:
    """One rank's state. Collective over the world when made."""

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
        engine: Engine = TRANSFORMERS,
    ) -> None:
        self.plan, self.comm, self.steps, self.step, self._engine = plan, comm, steps, 0, engine
        self.source_dir, self.run_dir, self.metrics = source_dir, run_dir, metrics
        self.buffer, self.collections = Buffer(), dict[str, Collection]()
        self.outputs = Outputs(run_dir, comm.rank)
        self.layouts = {g.name: g.layout(comm.world_size) for g in plan.groups}
        self.types = {f.name: FieldType.parse(f.type) for f in plan.fields}
        assert any(isinstance(op, LoadOp) for op in plan.ops()), (
            "the plan loads no prompts: the compiler refuses such programs"
        )
        self.prompts = prompts_of(plan)
        self.trained = changed_models(plan)
        self._functions = Functions(source_dir)
        self.calling = Background("rldsl-compute", comm.device)
        self.reading = Background("rldsl-load", torch.device("cpu"))
        self.transferring = Background("rldsl-transfer", comm.device)
        # Communicators that this thread alone uses.
        groups = {*groups_beside(plan, comm.world_size)} if comm.concurrent else set()
        self.beside = comm.make_beside(groups) if groups else comm
        self.running = dict[str, Running[Any]]()
        # Cheap things first: a bad data file or function is told before weights are read.
        self.loaders = self._open_streams([op for op in ops if isinstance(op, LoadOp)])
        self.warnings = [w for loader in self.loaders.values() for w in loader.warnings]
        self.calls = {op.id: self._function(op) for op in ops if isinstance(op, (ComputeOp, TrainOp))}
        self.models, self.samplers = dict[str, Model](), dict[tuple[str, int], Sampler]()
        self.residency = Residency(plan, comm, ops, run_dir=run_dir, models=self.models, samplers=self.samplers)
        try:
            self._load_models(ops)
            check_vocabularies(plan, {name: model.tokenizer for name, model in self.models.items()}, comm)
            self._make_samplers(ops)
        except BaseException:
            self.close()  # states of models loaded so far may be off the device: nobody else would remove them
            raise

    def _open_streams(self, ops: Sequence[LoadOp]) -> dict[str, Loader]:
        return {name: self._loader(list(each)) for name, each in groupby(sorted(ops, key=_stream), _stream)}

    def _loader(self, ops: Sequence[LoadOp]) -> Loader:
        group = self.plan.group(ops[0].group)
        at = group.coordinates(self.comm.rank, self.comm.world_size)
        assert at is not None, f"rank {self.comm.rank} loads for a group that it is not in"
        return Loader(
            ops,
            self.types,
            rank=at["dp"],
            size=group.dp(self.comm.world_size),
            seed=self.plan.seed,
            source_dir=self.source_dir,
        )

    def _function(self, op: ComputeOp | TrainOp) -> Callable[..., Any]:
        return self._functions.find(self.spec_of(op))

    def _load_models(self, ops: Sequence[AnyOp]) -> None:
        """Models of which this rank holds a part, then those that run through their layers, and what it samples from.

        A model that no op trains is loaded frozen: it needs neither masters nor an optimiser. What is loaded follows
        from the whole plan, as all ranks that hold a part of a model must load it alike. On a rank that only samples
        from a model that lies elsewhere, that is whole, without heads, and frozen: it begins as the model does.
        """
        groups = holders_of(self.plan)
        used = {op.model for op in parts(self.plan.ops()) if isinstance(op, _WITH_WEIGHTS)}
        here = {self.plan.model(op.model).holder for op in parts(ops) if isinstance(op, _WITH_WEIGHTS)}
        specs = [
            replace(m, trainable=m.trainable and m.name in self.trained)
            for m in self.plan.models
            if m.holder in here and (m.name in groups or m.name in used)
        ]
        made = self.models
        for spec in sorted(specs, key=lambda m: m.holder != m.name):
            own = spec.holder == spec.name
            holders = members(self.plan.group(groups[spec.holder]), self.comm.world_size)
            if self.comm.rank in holders:
                made[spec.name] = self._engine.load(
                    spec,
                    comm=self.group(groups[spec.holder]),
                    seed=self.plan.seed,
                    heads=[m for m in specs if m.shares == spec.name],
                    trunk=None if own else made[spec.holder],
                )
            elif own:
                alone, frozen = self.comm.by_itself(), replace(spec, trainable=False)
                made[spec.name] = self._engine.load(frozen, comm=alone, seed=self.plan.seed, heads=[], trunk=None)
            if own and self.comm.rank in holders:
                self.residency.begin(spec.name, State.WEIGHTS)
                self.residency.begin(spec.name, State.OPTIMIZER)

    def _make_samplers(self, ops: Sequence[AnyOp]) -> None:
        """An engine for each rollout of this rank. To make the first one of sharded weights takes all who hold them."""
        routes = {(op.model, op.staleness): self.route(op) for op in ops if isinstance(op, SyncWeightsOp)}
        sampled = {(op.model, op.staleness) for op in ops if isinstance(op, (GenerateOp, ExtendOp))}
        # One order on all ranks.
        for name, age in sorted(routes.keys() | sampled):
            model, way = self.models[name], routes.get((name, age))
            with self.residency.at_hand(model.spec.holder):
                if (name, age) in sampled:
                    self.samplers[name, age] = self._engine.sampler(model, seed=self.plan.seed, staleness=age)
                elif way is not None and way.meets and model.sharded:
                    deque(model.each_weight(dtype=model.dtype), maxlen=0)
            self.residency.begin(name, State.ENGINE, age)

    def route(self, op: SyncWeightsOp) -> Route:
        """The way that the weights of a transfer go."""
        return route(op, self.plan, self.comm.world_size)

    def spec_of(self, op: ComputeOp | TrainOp) -> FunctionSpec:
        """The function that `op` calls."""
        return self.plan.function(op.loss if isinstance(op, TrainOp) else op.function)

    def file_of(self, spec: FunctionSpec) -> Path | None:
        """The user's file, or None for a shipped function."""
        return None if spec.file is None else self.source_dir / spec.file

    def group(self, name: str) -> Comm:
        """The ranks of a group of the plan, of which this rank is one."""
        comm = self.comm.group_of(members(self.plan.group(name), self.comm.world_size))
        assert comm is not None, f"rank {self.comm.rank} runs an op of group `{name}` but is not in it"
        return comm

    def begin(self, step: int) -> None:
        """A new step: nothing is resident, nothing collected."""
        self.step = step
        self.buffer.clear()
        self.collections.clear()

    def close(self) -> None:
        """Begin nothing more in the background; nothing stays on the tiers below."""
        self.calling.close()
        self.transferring.close()
        self.reading.close()
        self.residency.close()

    @property
    def last_step(self) -> bool:
        """Whether the run ends with this step."""
        return self.step + 1 == self.steps

    def due(self, op: AnyOp) -> bool:
        """Whether `op` runs now: all ranks of its group decide alike. Frees always do, see `handlers.free`."""
        if op.guard is None or isinstance(op, FreeOp):
            return True
        every, until = op.guard.every, op.guard.until
        if every and self.step % every and not self.last_step:
            return False
        return until is None or until not in self.collections or not self.collections[until].full

    def collection(self, name: str, batch: int) -> Collection:
        """What a loop of this step has kept so far."""
        return self.collections.setdefault(name, Collection(batch=batch, step=self.step))

    def schema(self, names: Sequence[str]) -> dict[str, tuple[FieldType, int]]:
        """Type and samples per prompt of fields."""
        return {n: (self.types[n], self.plan.field(n).per_prompt) for n in names}

    def read(self, name: str, op: AnyOp) -> Column:
        """A resident field."""
        return self.buffer.get(name, op=op.id)

    def ragged(self, column: Column) -> Ragged:
        """The data of a field with a token axis."""
        assert isinstance(column.data, Ragged), "the plan's types say that this field is ragged"
        return column.data


_WITH_WEIGHTS = (GenerateOp, ExtendOp, InferOp, TrainOp, SyncWeightsOp)


def _stream(op: LoadOp) -> str:
    return op.stream


def _trunk(model: str, plan: Plan) -> str:
    """The model whose training changes `model`: itself, unless it shares another's trunk."""
    return plan.model(model).shares or model


def prompts_of(plan: Plan) -> dict[str, int]:
    """How many prompts the rows of each field are of, all ranks together, before a filter."""
    found: dict[str, int] = {}
    for op in plan.ops():
        if isinstance(op, (LoadOp, TakeOp)):
            batch = op.batch
        else:
            batch = next((found[name] for name in op.reads if name in found), 0)
        found |= dict.fromkeys(op.writes, batch)
    return found


def changed_models(plan: Plan) -> frozenset[str]:
    """Models whose weights some op of the plan changes: those trained, and all that share a trunk with one."""
    trunks = {_trunk(op.model, plan) for op in plan.ops() if isinstance(op, TrainOp)}
    return frozenset(m.name for m in plan.models if _trunk(m.name, plan) in trunks)


def holders_of(plan: Plan) -> dict[str, str]:
    """The group over which each model's own layers lie: that of its passes, else of transfers, else of rollouts."""
    groups: dict[str, str] = {}
    for kinds in ((GenerateOp, ExtendOp), (SyncWeightsOp,), (InferOp, TrainOp)):
        groups |= {
            plan.model(op.model).holder: op.source if isinstance(op, SyncWeightsOp) else op.group
            for op in plan.ops()
            if isinstance(op, kinds) and isinstance(op, _WITH_WEIGHTS)
        }
    return groups


def check_vocabularies(plan: Plan, tokenizers: Mapping[str, PreTrainedTokenizerBase], comm: Comm) -> None:
    """RL0610 unless each model that reads tokens has the vocabulary of the model whose rollout wrote them.

    Collective over the world when its ranks run different programs: then they hold different models.
    """
    writers = _token_writers(plan)
    reads = [
        (op.model, writers[op.tokens])
        for op in parts(plan.ops())
        if isinstance(op, (InferOp, TrainOp, ExtendOp)) and op.tokens in writers and op.model != writers[op.tokens]
    ]
    pairs = list(dict.fromkeys(reads))
    vocabularies = {m: tokenizers[m].get_vocab() for pair in pairs for m in pair if m in tokenizers}
    if len(plan.programs) > 1:
        vocabularies = _of_all_ranks(vocabularies, comm)
    for reader, writer in pairs:
        here, there = vocabularies[reader], vocabularies[writer]
        if here != there:
            _other_vocabulary(reader, here, writer, there)


def _of_all_ranks(mine: Mapping[str, dict[str, int]], comm: Comm) -> dict[str, dict[str, int]]:
    """The vocabularies of models of all ranks. What travels are hashes, unless they differ."""
    hashes = {name: hashlib.sha256(canonical(words)).hexdigest() for name, words in mine.items()}
    everyone = comm.all_gather_object(hashes)
    if len({each for theirs in everyone for each in theirs.values()}) < 2:
        return {name: {} for theirs in everyone for name in theirs}
    # The first rank that has one tells it.
    first = {name: rank for rank, theirs in reversed([*enumerate(everyone)]) for name in theirs}
    told = comm.all_gather_object({n: words for n, words in mine.items() if first[n] == comm.rank})
    return {name: words for theirs in told for name, words in theirs.items()}


def _token_writers(plan: Plan) -> dict[str, str]:
    """The model that sampled each field of tokens, also of tokens that a collection hands on."""
    writers: dict[str, str] = {}
    for op in plan.ops():
        if isinstance(op, (GenerateOp, ExtendOp)) and "tokens" in op.outputs:
            writers[op.outputs["tokens"]] = op.model
        if isinstance(op, CollectOp):
            writers |= {op.fields[name]: writers[name] for name in op.fields if name in writers}
    return writers


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
