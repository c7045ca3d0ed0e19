"""The sizes of a plan fit each other, and no number is outside what its op can work with."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    LoadOp,
    ReshardOp,
    SaveOp,
    TakeOp,
    TrainOp,
    parts,
)
from rldsl.compiler.plan import Group, Plan
from rldsl.compiler.verify.facts import Facts

Interval = tuple[str, float, float]
# Attributes, with the least value and what they must stay below. A comparison with NaN is false: it never passes.
_END = float("inf")
_SAMPLING: tuple[Interval, ...] = (
    ("max_new_tokens", 1, _END), ("max_prompt_tokens", 0, _END), ("temperature", 0, _END), ("top_k", 0, _END),
    ("staleness", 0, 2), ("rows_at_once", 0, _END),
)  # fmt: skip
_INTERVALS: dict[type[AnyOp], tuple[Interval, ...]] = {
    LoadOp: (("batch", 1, _END), ("rounds", 1, _END), ("round", 0, _END)),
    GenerateOp: (*_SAMPLING, ("n", 1, _END)),
    ExtendOp: _SAMPLING,
    InferOp: (("temperature", 0, _END), ("micro_batch_tokens", 0, _END), ("logits", 0, _END)),
    TrainOp: (
        ("batch", 1, _END), ("minibatch", 1, _END), ("epochs", 1, _END), ("lr", 0, _END), ("weight_decay", 0, _END),
        ("beta1", 0, 1), ("beta2", 0, 1), ("max_grad_norm", 0, _END), ("micro_batch_tokens", 0, _END),
        ("temperature", 0, _END), ("logits", 0, _END),
    ),
    ReshardOp: (("batch", 1, _END),),
    CollectOp: (("batch", 1, _END),),
    TakeOp: (("batch", 1, _END),),
    SaveOp: (("every", 0, _END),),
}  # fmt: skip
_POSITIVE = {InferOp: ("temperature",), TrainOp: ("temperature", "max_grad_norm")}


def numbers(facts: Facts) -> Iterator[str]:
    """Batches, minibatches, and the settings of ops; the groups are as they should be."""
    plan = facts.plan
    for op in parts(facts.ops):
        yield from _settings(op)
        if isinstance(op, (LoadOp, CollectOp, TakeOp, TrainOp, ReshardOp)):
            yield from _batch(op, facts)
        if isinstance(op, TrainOp) and op.minibatch > 0:
            if op.batch % op.minibatch:
                yield f"`{op.id}`: a batch of {op.batch} prompts is not a whole number of minibatches of {op.minibatch}"
            if plan.divides > 0 and op.minibatch % plan.divides:
                yield f"`{op.id}`: a minibatch of {op.minibatch} prompts does not divide by {plan.divides}"
            dp = facts.layouts[op.group].dp
            if dp and op.minibatch % dp:
                yield f"`{op.id}`: a minibatch of {op.minibatch} prompts does not divide over dp = {dp}"


def groups(plan: Plan) -> Iterator[str]:
    """How many ranks there are, which of them the groups have, and whether their axes fill them."""
    world = plan.world_size
    if plan.divides < 1:
        yield f"`divides` must be at least 1, not {plan.divides}"
    if world is not None and world < 1:
        yield f"a plan for {world} ranks"
        return
    for group in plan.groups:
        yield from (f"the group `{group.name}` {problem}" for problem in _group(group, world))


def _group(group: Group, world: int | None) -> Iterator[str]:
    if world is None:
        if group.ranks or {group.tp, group.cp, group.pp, group.ep} != {1}:
            yield "has ranks of its own, or axes, in a plan that does not fix how many ranks there are"
        return
    last = -1
    for first, end in group.ranks:
        if not last < first < end <= world:
            yield f"has the ranks {first} to {end - 1}, of {world} and after {last}"
        last = end
    if min(group.tp, group.cp, group.pp, group.ep) < 1:
        yield "has an axis of no rank"
    elif group.size(world) % group.copies:
        yield f"has {group.size(world)} ranks, which do not divide by tp = {group.tp}, cp = {group.cp}, pp = {group.pp}"
    elif group.size(world) // group.pp % group.ep:
        yield f"has ep = {group.ep}, which does not divide its ranks"


def _settings(op: AnyOp) -> Iterator[str]:
    for name, least, below in _INTERVALS.get(type(op), ()):
        value = getattr(op, name)
        if not least <= value < below:
            yield f"`{op.id}` has {name} = {value}"
    for name in _POSITIVE.get(type(op), ()):
        if getattr(op, name) == 0:
            yield f"`{op.id}` has {name} = 0"
    if isinstance(op, (GenerateOp, ExtendOp)) and not 0 < op.top_p <= 1:
        yield f"`{op.id}` has top_p = {op.top_p}"
    guard = op.guard
    if guard is not None and (guard.every < 0 or (guard.every == 0 and guard.until is None)):
        yield f"`{op.id}` has a guard that says nothing"


def _batch(op: LoadOp | CollectOp | TakeOp | TrainOp | ReshardOp, facts: Facts) -> Iterator[str]:
    """Every rank gets as many prompts, on each group that holds them and on any number of ranks that may run it."""
    if facts.plan.divides > 0 and op.batch % facts.plan.divides:
        yield f"`{op.id}`: a batch of {op.batch} prompts does not divide by {facts.plan.divides}"
    groups = (op.source, op.target) if isinstance(op, ReshardOp) else (op.group,)
    for group in dict.fromkeys(groups):
        dp = facts.layouts[group].dp
        if dp and op.batch % dp:
            yield f"`{op.id}`: a batch of {op.batch} prompts does not divide over dp = {dp} of `{group}`"
