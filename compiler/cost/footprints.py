"""What each op of a plan takes of a rank's memory, and what of its models stays there between ops.

All sizes are upper bounds: rows as long as the plan allows, and micro-batches as full as the engine makes them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from rldsl.compiler.cost.activations import Attention, Logits, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.hardware import GIB, Hardware
from rldsl.compiler.cost.memory import ENGINE_CHUNK, Scoring, Training
from rldsl.compiler.cost.memory_generation import ENGINE_KV, Generating, handing_over, saving
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Moment, Term, product
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.packing import CPU_PLACES, CUDA_PLACES, largest_micro_batch
from rldsl.compiler.cost.reserve import process
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.methods import RUNNING_ENGINES
from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    ReshardOp,
    SaveOp,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.compiler.plan import Group, ModelSpec, Phase, Plan
from rldsl.compiler.volume import PROMPT_TOKENS, Rows, Volumes
from rldsl.types import DType

OURS = RUNNING_ENGINES
"""Engines of this package; the others see rows one by one, with causal attention and no mask."""
PROMPT_ASSUMED = 1024
"""Tokens of a prompt, or of a text put between, where the plan sets no limit."""
_PREFILL = 8192  # tokens that other engines take at once of prompts, as vLLM does by default
_SCORING = 4  # so many training micro-batches' tokens go through a forward without gradients
_RESERVE_CUDA = int(1.5 * GIB)  # what the driver, cuBLAS and NCCL keep

Rollout = GenerateOp | ExtendOp
Key = tuple[str, State, int]
"""A model, which of its states, and of an engine the staleness of its rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A state on each rank of `group`. `dirty`: training, or for an engine a transfer, changes it."""

    key: Key
    group: str
    terms: tuple[Term, ...]
    dirty: bool

    @property
    def bytes(self) -> int:
        """Of a rank."""
        return sum(t.bytes for t in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Rows of a field on one rank: how many at most, of how many tokens, of these so many in responses."""

    rows: int
    tokens: int
    response: int


class Footprints:
    """The memory of `plan` on the ranks of `hardware`; `facts` are those of all its models."""

    def __init__(self, plan: Plan, facts: Mapping[str, ModelFacts], hardware: Hardware) -> None:
        assert plan.world_size is not None, "how much a rank holds depends on how many there are"
        self.plan, self.facts, self.hardware, self.world = plan, facts, hardware, plan.world_size
        self.volumes = Volumes(plan)
        self._holders = {m.name: m.holder for m in plan.models}
        self._ops = tuple(plan.ops())
        self._known: dict[str, tuple[States, ...]] = {}

    def trunk(self, model: str) -> str:
        """The model whose weights `model` has: itself, unless it shares another's trunk or is another's base."""
        return self._holders[model]

    @cached_property
    def reserve(self) -> Term:
        """What no op asks for and every process takes."""
        size = self._process if self.hardware.name == "cpu" else _RESERVE_CUDA
        return product(Category.RESERVE, "libraries, driver and allocator", (size, "B"))

    @property
    def _process(self) -> int:
        """Of a rank that holds a part of every model."""
        held = {m.name: self.facts[m.name] for m in self.plan.models if m.holder == m.name}
        spread = [m for m in held if self.plan.group(self._home(m)).size(self.world) > 1]
        terms = process((f.vocab for f in held.values()), sum(held[m].layers for m in spread))
        return sum(t.bytes for t in terms)

    @property
    def default_tokens(self) -> int:
        """Tokens of a training micro-batch where nobody says."""
        return CPU_PLACES if self.hardware.name == "cpu" else CUDA_PLACES

    # States.

    @cached_property
    def trained(self) -> frozenset[str]:
        """Trunks that some op changes."""
        return frozenset(self.trunk(op.model) for op in self._ops if isinstance(op, TrainOp))

    @cached_property
    def states(self) -> dict[Key, Held]:
        """All that stays between ops, by model and kind."""
        return {held.key: held for held in self._all_states()}

    def _all_states(self) -> Iterator[Held]:
        for model in dict.fromkeys(self.trunk(p.model) for p in self.plan.phases):
            states, group = self._largest(model), self._home(model)
            dirty = model in self.trained
            yield Held(key=(model, State.WEIGHTS, 0), group=group, terms=states.weights, dirty=dirty)
            if states.optimizer:
                yield Held(key=(model, State.OPTIMIZER, 0), group=group, terms=states.optimizer, dirty=True)
        for sync in self._ops:
            if isinstance(sync, SyncWeightsOp) and self.has_engine(sync):
                yield self._engine(sync)

    def has_engine(self, sync: SyncWeightsOp) -> bool:
        """Whether its rollouts have weights of their own."""
        return sync.sync is not SyncKind.LOCAL or self.engine(sync.model, Phase.GENERATE) not in OURS

    def _engine(self, sync: SyncWeightsOp) -> Held:
        """Ranks that only help to gather have a copy as well, in our own engine."""
        ours = self.engine(sync.model, Phase.GENERATE) in OURS
        gathered = ours and sync.sync is SyncKind.ALL_GATHER
        count = self._rollout_states(sync.model, sync.target).shard.parameters
        width = _width(self.plan.model(sync.model))
        weights = product(Category.WEIGHTS, "weights to generate with", (width, "B"), (count, "parameters"))
        return Held(
            key=engine_of(sync),
            group=sync.group if gathered else sync.target,
            terms=(weights,),
            dirty=self.trunk(sync.model) in self.trained,
        )

    def _home(self, model: str) -> str:
        """The group over which a trunk lies."""
        found = {p.phase: p.group for p in self.plan.phases if self.trunk(p.model) == model}
        return found.get(Phase.TRAIN) or found.get(Phase.INFER) or found[Phase.GENERATE]

    def engine(self, model: str, phase: Phase) -> str | None:
        """What runs a phase of a model."""
        return next((p.engine for p in self.plan.phases if (p.model, p.phase) == (model, phase)), None)

    def _trainer(self, model: str) -> str:
        """The engine that holds a trunk."""
        found = {p.phase: p.engine for p in self.plan.phases if self.trunk(p.model) == self.trunk(model)}
        return found.get(Phase.TRAIN) or found.get(Phase.INFER) or "fsdp"

    def _axes(self, group: Group) -> Axes:
        return Axes(dp=group.dp(self.world), tp=group.tp, cp=group.cp, pp=group.pp, ep=group.ep)

    def _states(self, model: str, stage: int) -> States:
        spec = self.plan.model(self.trunk(model))
        lora = Lora(rank=spec.lora_rank, targets=_targets(spec)) if spec.lora_rank else None
        trained = spec.name in self.trained
        axes = self._axes(self.plan.group(self._home(spec.name)))
        return States(
            shard=Shard(facts=self.facts[spec.name], axes=axes, stage=stage, lora=lora if trained else None),
            width=_width(spec),
            trained=trained,
            zero=3 if self._trainer(spec.name) in OURS else 1,
        )

    def _stages(self, model: str) -> tuple[States, ...]:
        """Of the first stage and the last, between which all others lie."""
        trunk = self.trunk(model)
        if trunk not in self._known:
            self._known[trunk] = self._made(trunk)
        return self._known[trunk]

    def _made(self, model: str) -> tuple[States, ...]:
        pp = self.plan.group(self._home(model)).pp
        return tuple(self._states(model, stage) for stage in dict.fromkeys((0, pp - 1)))

    def _largest(self, model: str) -> States:
        return max(self._stages(model), key=lambda s: sum(t.bytes for t in s.resident))

    def _rollout_states(self, model: str, group: str) -> States:
        spec = self.plan.model(model)
        shard = Shard(facts=self.facts[self.trunk(model)], axes=self._rollout_axes(model, group))
        return States(shard=shard, width=_width(spec), trained=False)

    def _rollout_axes(self, model: str, group: str) -> Axes:
        """dp leaves the weights whole on each replica, but for experts: ep takes ranks of tp first, then of dp."""
        if self.engine(model, Phase.GENERATE) in OURS:
            return Axes()
        of = self.plan.group(group)
        return Axes(tp=of.tp, pp=of.pp, ep=of.ep, dp=of.ep // math.gcd(of.ep, of.tp))

    # Who uses what.

    def uses(self, op: AnyOp) -> tuple[Key, ...]:
        """The states that must be on the device while an op runs; what a transfer writes anew is not among them."""
        match op:
            case InferOp():
                return tuple(dict.fromkeys((self.trunk(p.model), State.WEIGHTS, 0) for p in op.parts))
            case TrainOp():
                own = self.trunk(op.model)
                return ((own, State.WEIGHTS, 0), (own, State.OPTIMIZER, 0))
            case SaveOp():
                return ((self.trunk(op.model), State.WEIGHTS, 0),)
            case SyncWeightsOp():
                own = self.trunk(op.model)
                return ((own, State.WEIGHTS, 0),) if own in self.trained else ()
            case GenerateOp() | ExtendOp():
                engine = engine_of(op)
                return (engine if engine in self.states else (self.trunk(op.model), State.WEIGHTS, 0),)
        return ()

    def changes(self, op: AnyOp) -> tuple[Key, ...]:
        """The states that an op leaves different."""
        if isinstance(op, TrainOp):
            return self.uses(op)
        return self.renews(op)

    def renews(self, op: AnyOp) -> tuple[Key, ...]:
        """The states that an op writes from the start, whatever they were."""
        if isinstance(op, SyncWeightsOp) and self.trunk(op.model) in self.trained:
            engine = engine_of(op)
            return (engine,) if engine in self.states else ()
        return ()

    # Ops.

    def footprint(self, op: AnyOp, at_once: int | None = None) -> Footprint | None:
        """What an op needs, its own states included; None for one that no model has a part in.

        `at_once`: prompts of a wave, for engines whose pool is sized by configuration.
        """
        match op:
            case TrainOp():
                return _greatest(self._training(op, states).footprint for states in self._stages(op.model))
            case InferOp():
                return _greatest(self._scoring(p, s).footprint for p in op.parts for s in self._stages(p.model))
            case GenerateOp() | ExtendOp():
                return self._generating(op, at_once or self.wave(op)).footprint
            case SyncWeightsOp():
                return self._handing_over(op)
            case SaveOp():
                return self._saving(op)
        return None

    def _training(self, op: TrainOp, states: States) -> Training:
        rows = self.length(op.tokens, op.group, op.minibatch)
        ours = self._trainer(op.model) in OURS
        return Training(
            states=states,
            micro=_micro(rows, op.micro_batch_tokens or self.default_tokens, packed=ours),
            attention=Attention.MASKED if ours else Attention.CAUSAL,
            logits=Logits.CHUNKED,
            chunk=op.logits or ENGINE_CHUNK,
            cpu=self.hardware.name == "cpu",
            recompute=op.recompute,
        )

    def _scoring(self, op: InferOp, states: States) -> Scoring:
        rows = self.length(op.tokens, op.group)
        ours = self._trainer(op.model) in OURS
        micro = _micro(rows, op.micro_batch_tokens or _SCORING * self.default_tokens, packed=ours)
        if op.method is InferMethod.SCORE:
            micro = replace(micro, length=micro.length + 1, states=min(rows.rows, micro.places))
        return Scoring(
            states=states,
            micro=micro,
            attention=Attention.MASKED if ours else Attention.CAUSAL,
            chunk=op.logits or ENGINE_CHUNK,
            cpu=self.hardware.name == "cpu",
        )

    def wave(self, op: Rollout) -> int:
        """Prompts that are worked on at once, if the pool has room for all: our engine gives keys and values 4 GiB."""
        rows, n = self._rollout_rows(op)
        if self.engine(op.model, Phase.GENERATE) not in OURS:
            return max(1, rows.rows // n)
        facts = self.facts[self.trunk(op.model)]
        row = facts.kv_bytes_per_token(_width(self.plan.model(op.model))) * rows.tokens
        return max(1, min(rows.rows // n, ENGINE_KV // max(1, row * n)))

    def _rollout_rows(self, op: Rollout) -> tuple[Length, int]:
        """Rows on a rank, and how many each prompt has that share its cache while they are filled."""
        n = op.n if isinstance(op, GenerateOp) else 1
        made = next((w for w in op.writes if (v := self.volumes.volume(w)) and v.tokens), None)
        if made is not None:
            return self.length(made, op.group), n
        known = self.volumes.rows(op.reads[0]) or Rows(1, 1)
        dp = self.plan.group(op.group).dp(self.world)
        prompt = op.max_prompt_tokens or PROMPT_ASSUMED
        count = -(-known.prompts // dp) * known.per_prompt * n
        return Length(rows=count, tokens=prompt + op.max_new_tokens, response=op.max_new_tokens), n

    def _generating(self, op: Rollout, at_once: int) -> Generating:
        rows, n = self._rollout_rows(op)
        ours = self.engine(op.model, Phase.GENERATE) in OURS
        prompt = max(1, rows.tokens - op.max_new_tokens)
        tokens = _SCORING * self.default_tokens if ours else _PREFILL
        packed = _micro(Length(rows=at_once, tokens=prompt + 1, response=1), tokens, packed=ours)
        return Generating(
            states=self._rollout_states(op.model, op.group),
            prompts=at_once,
            prompt=prompt,
            samples=n,
            new_tokens=op.max_new_tokens,
            prefill=packed,
            top_p=op.top_p < 1,
            shared=engine_of(op) not in self.states,
        )

    def _handing_over(self, op: SyncWeightsOp) -> Footprint:
        """What passes through; the copies that are handed over are states."""
        if op.sync is SyncKind.LOCAL:
            return Footprint(moments=(Moment(name="handing weights over", terms=()),))
        return _passing(handing_over(self._largest(op.model), cpu=self.hardware.name == "cpu"))

    def _saving(self, op: SaveOp) -> Footprint:
        """What passes through."""
        return _passing(saving(self._largest(op.model), cpu=self.hardware.name == "cpu"))

    # Rows.

    def length(self, field: str, group: str, prompts: int | None = None) -> Length:
        """Rows of a ragged field on a rank of `group`, by default of its whole batch."""
        volume, rows = self.volumes.volume(field), self.volumes.rows(field)
        assert volume is not None and volume.tokens is not None and rows is not None, f"`{field}` has no rows"
        dp = self.plan.group(group).dp(self.world)
        count = -(-(prompts or rows.prompts) // dp) * rows.per_prompt
        return Length(rows=count, tokens=volume.tokens.at(self._tokens), response=volume.tokens.constant)

    @cached_property
    def _tokens(self) -> Mapping[str, int]:
        """What the symbols of `Volumes` stand for."""
        known: dict[str, int] = defaultdict(lambda: PROMPT_ASSUMED)
        for op in self._ops:
            if isinstance(op, GenerateOp):
                known[PROMPT_TOKENS] = max(known.get(PROMPT_TOKENS, 0), op.max_prompt_tokens or PROMPT_ASSUMED)
            elif isinstance(op, ExtendOp):
                known[f"tokens({_plain(op.observation)})"] = op.max_prompt_tokens or PROMPT_ASSUMED
        return known

    @cached_property
    def assumed(self) -> tuple[str, ...]:
        """What was taken for granted of rows."""
        rollouts = [op for op in self._ops if isinstance(op, Rollout) and not op.max_prompt_tokens]
        return tuple(
            f"`{op.id}`: {'prompts' if isinstance(op, GenerateOp) else 'observations'} of at most {PROMPT_ASSUMED:,} "
            "tokens; say `max_prompt_tokens` to set a limit"
            for op in rollouts
        )

    def fields(self, ops: Iterable[AnyOp]) -> tuple[int, ...]:
        """Bytes of the columns that a rank holds during each op, texts left out: they are not on the device."""
        here: dict[str, int] = {}
        found = []
        for op in ops:
            if isinstance(op, FreeOp):
                for name in op.fields:
                    here.pop(name, None)
            target = op.target if isinstance(op, ReshardOp) else op.group
            here |= {name: self._column(name, target) for name in op.writes}
            found.append(sum(here.values()))
        return tuple(found)

    def _column(self, field: str, group: str) -> int:
        volume = self.volumes.volume(field)
        if volume is None or volume.kind.dtype is DType.TEXT:
            return 0
        dp = self.plan.group(group).dp(self.world)
        rows = -(-volume.rows.prompts // dp) * volume.rows.per_prompt
        return rows * volume.row.at(self._tokens)


def engine_of(op: Rollout | SyncWeightsOp) -> Key:
    """The engine of a rollout: weights a step old have one of their own."""
    return op.model, State.ENGINE, op.staleness


def _micro(rows: Length, tokens: int, *, packed: bool) -> MicroBatch:
    """The fullest micro-batch of at most `tokens` places, or of one longer row; not `packed`, of whole rows."""
    if packed:
        prompt = max(1, rows.tokens - rows.response)
        return largest_micro_batch(places=tokens, prompt=prompt, response=max(1, rows.response), rows=rows.rows)
    length = max(1, rows.tokens - 1)
    count = max(1, min(rows.rows, tokens // length))
    return MicroBatch(packs=count, length=length, states=count * rows.response, cells=count * rows.tokens)


def _passing(made: Footprint) -> Footprint:
    """What weights take on their way, without those that stay."""
    passing = tuple(t for t in made.peak.terms if t.category is Category.COMMUNICATION)
    return Footprint.of((), {made.peak.name: passing})


def _greatest(found: Iterable[Footprint]) -> Footprint:
    """The one with the greatest need beside its states."""
    return max(found, key=lambda f: f.bytes - f.resident_bytes)


def _width(spec: ModelSpec) -> int:
    return 2 if spec.precision == "bf16" else 4


def _targets(spec: ModelSpec) -> frozenset[str]:
    names = spec.lora_targets.replace(",", " ").split()
    return frozenset() if names == ["all-linear"] else frozenset(names)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdecimal())
