"""Seconds of a plan's ops, and when each of them runs in a step.

What a plan does not say of its rows is assumed, in one place: `Assumed`. A user's functions, the loading of prompts
and the writing of files have no seconds here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.cost.footprints import OURS
from rldsl.compiler.cost.hardware import Hardware, hardware_of
from rldsl.compiler.cost.memory_generation import ENGINE_KV
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.packing import CPU_PLACES, CUDA_PLACES
from rldsl.compiler.cost.time_model import (
    Placed,
    Rows,
    Work,
    causal_work,
    exchange_seconds,
    forward_seconds,
    generate_seconds,
    head_seconds,
    move_seconds,
    optimizer_seconds,
    packed_work,
    sync_seconds,
    train_seconds,
)
from rldsl.compiler.cost.timeline import Timed, Timeline
from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    GenerateOp,
    InferMethod,
    InferOp,
    OffloadOp,
    OnloadOp,
    Recompute,
    ReshardOp,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.compiler.plan import Phase, Plan
from rldsl.compiler.volume import PROMPT_TOKENS, Amount, Volumes, symbol

# The part of a forward of the layers that the backward pass makes again. What is neither product nor attention takes
# about a tenth of it: assumed.
_AGAIN = {Recompute.NONE: 0.0, Recompute.SELECTIVE: 0.1, Recompute.FULL: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What rows are like: tokens of a prompt, tokens or bytes of other text, what part of its limit a response has."""

    prompt_tokens: int = 512
    text_tokens: int = 256
    filled: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """How long an op takes, and what that is the sum of."""

    total: float
    parts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, **parts: float) -> Seconds:
        """The sum of named parts, without those that are 0."""
        return cls(total=sum(parts.values()), parts=tuple((n, s) for n, s in parts.items() if s))


@dataclass(frozen=True)
class PlanTime:
    """The seconds of `plan` on so many ranks of `hardware`; `facts` of the models whose size is known."""

    plan: Plan
    facts: Mapping[str, ModelFacts]
    hardware: Hardware
    ranks: int
    assumed: Assumed = Assumed()

    @cached_property
    def volumes(self) -> Volumes:
        """How many rows and tokens each field has."""
        return Volumes(self.plan)

    def seconds(self, op: AnyOp) -> Seconds | None:
        """Of one run of the op; None where nothing is known: of functions, and of models without facts."""
        match op:
            case GenerateOp() | ExtendOp():
                return self._generate(op)
            case InferOp():
                return self._infer(op)
            case TrainOp():
                return self._train(op)
            case ReshardOp() | OnloadOp() | OffloadOp():
                return self._reshard(op) if isinstance(op, ReshardOp) else self._tiers(op)
            case SyncWeightsOp():
                return self._sync(op)
        return None

    def placed(self, model: str, phase: Phase, group: str, *, whole: bool = False) -> Placed | None:
        """A model where an op runs it, None without facts; `whole`: its weights lie on each replica."""
        facts = self.facts.get(model)
        if facts is None:
            return None
        spec, where = self.plan.model(model), self.plan.group(group)
        axes = Axes(dp=where.dp(self.ranks), tp=where.tp, cp=where.cp, pp=where.pp, ep=where.ep)
        sharded = not whole and phase is not Phase.GENERATE
        return Placed(facts=facts, axes=axes, hardware=self.hardware, precision=spec.precision, sharded=sharded)

    def _generate(self, op: GenerateOp | ExtendOp) -> Seconds | None:
        placed = self.placed(op.model, Phase.GENERATE, op.group)
        rows = self.rollout_rows(op)
        if placed is None or rows is None:
            return None
        kv = ENGINE_KV if self.engine(op.model, Phase.GENERATE) in OURS else None
        return Seconds.of(rollout=generate_seconds(placed, rows, kv_budget=kv))

    def rollout_rows(self, op: GenerateOp | ExtendOp) -> Rows | None:
        """Prompts and what is sampled to each; None where the plan does not say how many."""
        return self._rows(op.writes, op.max_new_tokens)

    def _infer(self, op: InferOp) -> Seconds | None:
        phase = self._scoring(op.model)
        placed = self.placed(op.model, phase, op.group)
        rows = self._rows((op.tokens,))
        if placed is None or rows is None:
            return None
        work = self._work(op.model, phase, placed, rows)
        if op.method is InferMethod.SCORE:
            work = Work(tokens=work.tokens, states=ceil(rows.count / placed.axes.dp), attention=work.attention)
        # Without a backward pass a micro-batch has four times the tokens.
        micro_batches = ceil(work.tokens / (op.micro_batch_tokens or 4 * self._micro_tokens(0)))
        further = [self.placed(h.model, phase, op.group) for h in op.also]
        heads = sum(head_seconds(p, work) for p in further if p is not None)
        return Seconds.of(forward=forward_seconds(placed, work, micro_batches=micro_batches), further_heads=heads)

    def _train(self, op: TrainOp) -> Seconds | None:
        placed = self.placed(op.model, Phase.TRAIN, op.group)
        rows = self._rows((op.tokens,))
        if placed is None or rows is None:
            return None
        work = self._work(op.model, Phase.TRAIN, placed, rows)
        steps = ceil(op.batch / op.minibatch)
        micro_batches = max(steps, ceil(work.tokens / self._micro_tokens(op.micro_batch_tokens)))
        trained = self._trained(op.model, placed.facts)
        again = _AGAIN[op.recompute]
        passes = train_seconds(placed, work, micro_batches=micro_batches, trained=trained, recompute=again)
        step = optimizer_seconds(placed, trained=trained)
        return Seconds.of(passes=op.epochs * passes, optimizer=op.epochs * steps * step)

    def _tiers(self, op: OnloadOp | OffloadOp) -> Seconds:
        """Nothing for a state that is dropped."""
        crosses = isinstance(op, OnloadOp) or op.keep
        return Seconds.of(between_tiers=move_seconds(self.hardware, op.bytes, op.tier) if crosses else 0.0)

    def _reshard(self, op: ReshardOp) -> Seconds | None:
        """The bytes as evenly spread over the group's ranks as rows are."""
        sent = self.volumes.sent(op)
        if sent is None:
            return None
        ranks = self.plan.group(op.group).size(self.ranks)
        each = self._amount(sent.bytes) / ranks
        return Seconds.of(exchange=exchange_seconds(self.hardware, each, ranks) if sent.messages else 0.0)

    def _sync(self, op: SyncWeightsOp) -> Seconds | None:
        source = self.placed(op.model, Phase.TRAIN, op.source)
        target = self.placed(op.model, Phase.GENERATE, op.target, whole=True)
        if source is None or target is None or op.sync is SyncKind.LOCAL:
            return None if source is None else Seconds.of()
        apart = self.plan.group(op.group).size(self.ranks) if op.sync is SyncKind.BROADCAST else 0
        return Seconds.of(transfer=sync_seconds(source, target, apart=apart))

    def engine(self, model: str, phase: Phase) -> str | None:
        """What runs a phase of a model."""
        return next((p.engine for p in self.plan.phases if (p.model, p.phase) == (model, phase)), None)

    def _scoring(self, model: str) -> Phase:
        """A model that is trained scores with the engine that trains it."""
        return Phase.TRAIN if self.engine(model, Phase.TRAIN) else Phase.INFER

    def _work(self, model: str, phase: Phase, placed: Placed, rows: Rows) -> Work:
        count = packed_work if self.engine(model, phase) in (None, *OURS) else causal_work
        return count(placed.facts, rows, placed.axes.dp)

    def _micro_tokens(self, asked: int) -> int:
        return asked or (CPU_PLACES if self.hardware.name == "cpu" else CUDA_PLACES)

    def _trained(self, model: str, facts: ModelFacts) -> float:
        """The part of the parameters that is trained: with low-rank adapters, theirs beside all linear layers."""
        rank = self.plan.model(model).lora_rank
        if not rank:
            return 1.0
        beside = (*facts.attention_linears, *facts.mlp_linears)
        adapters = facts.layers * sum(rank * (each.inputs + each.outputs) for each in beside)
        return min(1.0, adapters / facts.parameters)

    def _rows(self, fields: tuple[str, ...], response: int | None = None) -> Rows | None:
        """Those of `fields`; a plan's limits count as responses, all else as prompt.

        `response`: the tokens sampled last; what came before them, responses too, is then the prompt.
        """
        rows = next((r for f in fields if (r := self.volumes.rows(f))), None)
        if rows is None:
            return None
        tokens = next((v.tokens for f in fields if (v := self.volumes.volume(f)) and v.tokens), None)
        whole = symbol(PROMPT_TOKENS) + Amount(response or 0) if tokens is None else tokens
        limit = ceil(whole.constant * self.assumed.filled)
        last = limit if response is None else ceil(response * self.assumed.filled)
        return Rows(
            prompts=rows.prompts,
            samples=rows.per_prompt,
            prompt_tokens=self._amount(whole) - whole.constant + limit - last,
            response_tokens=last,
        )

    def _amount(self, amount: Amount) -> int:
        values = defaultdict(lambda: self.assumed.text_tokens, {PROMPT_TOKENS: self.assumed.prompt_tokens})
        return amount.at(values)

    def timeline(self, steps: int = 1) -> tuple[Timed, ...]:
        """When each op of each program runs: in order, a collective when the last of its ranks comes to it.

        A transfer or a move in the background runs beside the ops behind it, as if it took nothing from them; what is
        left of it when it is waited for counts there. An op that runs in every k-th step counts a k-th, one without
        known seconds nothing.
        """
        return Timeline(self.plan, self._durations, steps).ops()

    @cached_property
    def step_seconds(self) -> float:
        """How long a step takes once the ranks have found their pace: those that can go on with the next one do."""
        ends = [max((t.end for t in self.timeline(steps)), default=0.0) for steps in (2, 4)]
        return (ends[1] - ends[0]) / 2

    @cached_property
    def _durations(self) -> dict[str, float]:
        return {op.id: self._lasting(op) for op in self.plan.ops()}

    def _lasting(self, op: AnyOp) -> float:
        known = self.seconds(op)
        every = max(1, op.guard.every) if op.guard else 1
        return known.total / every if known else 0.0


def plan_time(plan: Plan, assumed: Assumed | None = None) -> PlanTime | NoFacts:
    """The seconds of a plan for known hardware and ranks.

    Models of which nothing is known have no seconds; where that is so of all, that is the answer. Errors as
    `read_config` has them.
    """
    if plan.cluster is None or plan.world_size is None:
        return NoFacts("the plan is for any hardware: name a cluster, such as `--cluster '8 x h100'`")
    found = {m.name: facts_of(m) for m in plan.models}
    facts = {name: each for name, each in found.items() if isinstance(each, ModelFacts)}
    unknown = [each for each in found.values() if isinstance(each, NoFacts)]
    if unknown and not facts:
        return unknown[0]
    hardware = hardware_of(plan.cluster, plan.figures)
    return PlanTime(plan, facts, hardware, plan.world_size, assumed or Assumed())
