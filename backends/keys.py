"""The keys of a line of metrics.jsonl, as they follow from the plan. Imports no torch: the terminal view reads them."""

from __future__ import annotations

from rldsl.compiler.ops import ComputeOp, InferOp, TakeOp
from rldsl.compiler.plan import Plan
from rldsl.types import DType, FieldType

COUNTS = ("prompts", "samples", "tokens", "response_tokens")
OWN_KEYS = frozenset({"step", "seconds", "tokens_per_s", *COUNTS})
ROLLOUT = ("response_length", "truncated", "entropy")  # logged as `<node>/response_length` of each that samples


def mean_fields(plan: Plan) -> tuple[str, ...]:
    """The computed f32 fields with one number a row, whose means are logged, see `logged_as`.

    What a filter let through counts as computed. Not those of a loop's iterations, `block.2.score`.
    """
    kinds = {f.name: FieldType.parse(f.type) for f in plan.fields}
    numbers = {name for name, kind in kinds.items() if kind.dtype is DType.F32 and not kind.ragged}
    written = [name for op in plan.ops() if isinstance(op, (ComputeOp, InferOp, TakeOp)) for name in op.writes]
    return tuple(n for n in dict.fromkeys(written) if n in numbers and not any(p.isdigit() for p in n.split(".")))


def logged_as(name: str, kind: str = "field") -> str:
    """The key of a field's mean or of a metric: its name, or `<kind>/<name>` where the log has another such key."""
    return f"{kind}/{name}" if name in OWN_KEYS else name


def memory_key(op: str) -> str:
    """The key of the most memory that an op takes of a rank, in bytes."""
    return f"memory/{op}"


def reward_key(plan: Plan) -> str | None:
    """The key of the reward curve: that of `score`, else of the first field that has a mean.

    One that is there in every step rather than one of a validation.
    """
    guarded = {name for op in plan.ops() if op.guard is not None for name in op.writes}
    fields = sorted(mean_fields(plan), key=lambda n: (n in guarded, n.rpartition(".")[2] != "score"))
    return next(map(logged_as, fields), None)
