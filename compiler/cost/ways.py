"""The ways in which an op can be cut up: micro-batches, recomputation, logits at once, rows decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import product

from msgspec.structs import replace

from rldsl.compiler.cost.footprints import OURS, Footprints
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.memory_terms import Footprint
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.plan_time import FEW_LOGITS, PlanTime
from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, InferOp, Recompute, TrainOp
from rldsl.compiler.plan import Phase, Plan

# What is faster by less than this is not worth its room.
_WORTH = 0.99
_LARGEST_TOKENS = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An op run in one way: its footprint, and seconds."""

    op: AnyOp
    footprint: Footprint | None
    seconds: float

    @property
    def workspace(self) -> int:
        """Bytes beside the op's states."""
        return 0 if self.footprint is None else self.footprint.bytes - self.footprint.resident_bytes


class Runs:
    """The ways to run each op of `plan`; `pinned` names by op the fields that the user has set.

    `smallest`: only those that need least, which are quickly found and enough to see whether anything fits.
    """

    def __init__(
        self,
        plan: Plan,
        facts: Mapping[str, ModelFacts],
        hardware: Hardware,
        pinned: Mapping[str, frozenset[str]],
        *,
        smallest: bool = False,
    ) -> None:
        assert plan.world_size is not None, "how long a rank works depends on how many there are"
        self.footprints = Footprints(plan, facts, hardware)
        self.times = PlanTime(plan, facts, hardware, plan.world_size)
        self.pinned, self.smallest = pinned, smallest
        self._asked: dict[str, AnyOp] = {}
        self._found: dict[str, list[Run]] = {}
        self._usual: dict[str, int] = {}

    def learn(self, other: Runs) -> None:
        """Take over what `other` has found; its plan is to have the same ops in another order, and the same pins."""
        self._asked, self._found, self._usual = dict(other._asked), dict(other._found), dict(other._usual)

    def usual(self, op: AnyOp) -> int:
        """Bytes beside the op's states where the engine runs it as it would by itself."""
        self._ways(op)
        if op.id not in self._usual:
            self._usual[op.id] = self._run(op).workspace
        return self._usual[op.id]

    def of(self, op: AnyOp) -> tuple[Run, ...]:
        """Each way that is faster than all that need less; the one of least memory first."""
        found = self._ways(op)
        kept = found[:1]
        for run in found[1:]:
            if run.seconds < kept[-1].seconds * _WORTH:
                kept.append(run)
        return tuple(kept)

    def _ways(self, op: AnyOp) -> list[Run]:
        asked = self._asked.get(op.id)
        if asked is None or _unexplained(asked) != _unexplained(op):
            self._found[op.id] = sorted(self._all(op), key=lambda r: (r.workspace, r.seconds))
            self._usual.pop(op.id, None)
        elif asked.because != op.because:
            again = (changed(r, op=replace(r.op, because=op.because)) for r in self._found[op.id])
            self._found[op.id] = list(again)
        self._asked[op.id] = op
        return self._found[op.id]

    def fullest(self, run: Run, room: int) -> Run:
        """Of the ways about as fast as `run` that fit into `room`, the one of the largest micro-batches.

        What seconds do not tell speaks for them, up to what the engine would choose; and against recomputation.
        """
        limit = run.seconds / _WORTH
        fitting = [r for r in self._found[run.op.id] if r.workspace <= room and r.seconds <= limit]
        return max(fitting, key=self._preference, default=run)

    def _preference(self, run: Run) -> tuple[float, ...]:
        op = run.op
        if not isinstance(op, TrainOp | InferOp):
            return (-run.seconds,)
        usual = self.footprints.default_tokens * (1 if isinstance(op, TrainOp) else 4)
        again = list(Recompute).index(op.recompute) if isinstance(op, TrainOp) else 0
        return (-again, -(op.logits == FEW_LOGITS), min(op.micro_batch_tokens, usual), -run.seconds)

    def _all(self, op: AnyOp) -> Iterator[Run]:
        match op:
            case TrainOp():
                yield from self._trainings(op)
            case InferOp():
                yield from self._scorings(op)
            case GenerateOp() | ExtendOp():
                yield from self._rollouts(op)
            case _:
                yield self._run(op)

    def _run(self, op: AnyOp) -> Run:
        known = self.times.seconds(op)
        return Run(op=op, footprint=self.footprints.footprint(op), seconds=known.total if known else 0.0)

    def _trainings(self, op: TrainOp) -> Iterator[Run]:
        fixed = self.pinned.get(op.id, frozenset())
        rows = self.footprints.length(op.tokens, op.group, op.minibatch)
        usual = self.footprints.default_tokens
        sizes = [op.micro_batch_tokens] if "micro_batch_tokens" in fixed else self._sizes(rows.tokens, rows.rows, usual)
        again = [op.recompute] if "recompute" in fixed else list(Recompute)
        chunks = [op.logits] if "logits" in fixed else [0, FEW_LOGITS]
        if self.smallest:
            sizes, chunks = sizes[:1], chunks[-1:]
        for tokens, recompute, chunk in product(sizes, again, chunks):
            if chunk == FEW_LOGITS and tokens > sizes[0]:
                continue  # smaller micro-batches come first
            yield self._run(replace(op, micro_batch_tokens=tokens, recompute=recompute, logits=chunk))

    def _scorings(self, op: InferOp) -> Iterator[Run]:
        rows = self.footprints.length(op.tokens, op.group)
        usual = 4 * self.footprints.default_tokens
        sizes = self._sizes(rows.tokens, rows.rows, usual)
        usually = [] if self.smallest else [(size, 0) for size in sizes]
        for tokens, chunk in (*usually, (sizes[0], FEW_LOGITS)):
            yield self._run(replace(op, micro_batch_tokens=tokens, logits=chunk))

    def _sizes(self, length: int, rows: int, usual: int) -> list[int]:
        """Tokens of a micro-batch: from one row to all of them, by powers of two from the usual."""
        most = min(_LARGEST_TOKENS, usual if self.footprints.hardware.name == "cpu" else 2 * usual, rows * length)
        least = min(length, most)
        sizes = {max(least, min(most, 2 * usual >> shift)) for shift in range(8)}
        return sorted(sizes)

    def _rollouts(self, op: GenerateOp | ExtendOp) -> Iterator[Run]:
        """Our engine decides by itself how many rows it decodes at once; of others the plan does, for all or fewer."""
        if self.times.engine(op.model, Phase.GENERATE) in OURS:
            yield self._run(op)
            return
        n = op.n if isinstance(op, GenerateOp) else 1
        prompts = self.footprints.wave(replace(op, rows_at_once=0))
        counts = tuple(dict.fromkeys(max(1, prompts >> shift) for shift in range(10)))
        for count in counts[-1:] if self.smallest else counts:
            yield self._run(replace(op, rows_at_once=count * n))


def _unexplained(op: AnyOp) -> AnyOp:
    return replace(op, because=())
