"""What is said of a plan that does not fit its memory, fits barely, or pays for what the user has fixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from rldsl.compiler.cost.hardware import GIB, Hardware
from rldsl.compiler.cost.memory_changes import Enough, Never, Remedies
from rldsl.compiler.cost.memory_edits import Variant, pins_of
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned, Shortage
from rldsl.compiler.cost.plan_time import PlanTime, plan_time
from rldsl.compiler.expr import format_scalar
from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, InferOp, OnloadOp, Tier, TrainOp
from rldsl.compiler.plan import Plan
from rldsl.compiler.ranks import words
from rldsl.compiler.trials import Trials, Tried
from rldsl.diagnostics import Diagnostics, Span

# A pin that makes a step longer by this part is worth a word.
_COSTLY = 0.10


def beyond_device(module: Module, found: Diagnostics, budget: int, hardware: Hardware) -> bool:
    """Whether the budget asked for is more than a device holds: RL0816."""
    if hardware.memory is None or budget <= hardware.memory:
        return False
    deploy = module.graph.deploy
    found.error(
        "RL0816",
        f"a budget of {size(budget)} is more than a device of `{hardware.name}` has",
        span=deploy.span if deploy else None,
        expected=f"at most {size(hardware.memory)} a rank",
        found=size(budget),
        fix="leave `--memory` out; or say `memory` of the cluster, in GiB, if its devices have more",
    )
    return True


def does_not_fit(
    module: Module, found: Diagnostics, shortage: Shortage, planner: MemoryPlanner, budget: int, help_: Remedies | None
) -> None:
    """RL0810: by how much, where, what takes most, and what would help; None where that is not asked."""
    largest = ", ".join(f"{what} {size(count)}" for what, count in shortage.largest)
    found.error(
        "RL0810",
        f"does not fit: `{shortage.op}` needs {size(shortage.bytes)} more than a rank has, on "
        f"{_ranks(planner.plan, shortage.rank)}",
        span=_place(module, shortage.op),
        expected=f"at most {size(budget)} a rank",
        found=size(shortage.need),
        notes=(
            _already(module, planner, shortage.op),
            f"the most is taken by: {largest}",
            *(_helping(help_) if help_ else ()),
            *(_ranks_needed(help_.ranks) if help_ else ()),
        ),
        fix=_fix(help_) if help_ else None,
    )


def _ranks(plan: Plan, first: int) -> str:
    """The class of ranks that begins with this one."""
    program, world = plan.program(first), plan.world_size or 1
    last = program.last or world
    return "every rank" if (first, last) == (0, world) else words(((first, last),))


def _already(module: Module, planner: MemoryPlanner, name: str) -> str:
    """What has been done already so that an op takes little, and what was not, as the user has set it."""
    done = "states that the op does not use are off the device by then"
    op, node = planner.ops[planner.number[name]], module.graph.node_of.get(name)
    pins = pins_of(node) if node else ()
    if isinstance(op, InferOp | TrainOp) and "micro_batch_tokens" not in pins:
        done += ", micro-batches as small as the compiler makes them"
    kept = _and(f"`{n} = {_value(op, n)}`" for n in pins)
    return f"{done}; {kept} as set" if kept else done


def _value(op: AnyOp, name: str) -> str:
    return format_scalar(getattr(op, name))


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def _helping(found: Remedies) -> Iterator[str]:
    """What makes it fit, the fastest first; or that nothing does."""
    tried = ", ".join(found.tried)
    if not found.changes:
        if tried:
            yield f"not enough, even together: {tried}" if found.all_tried else f"nothing was found among: {tried}"
        return
    least = len(found.changes[0].kinds)
    for count, changes in groupby(found.changes, key=lambda c: len(c.kinds)):
        if count > least:
            yield f"with the same work, {_NUMBERS[count]} kinds of change together are enough:"
        elif count > 1:
            yield f"no change of one kind is enough, {_NUMBERS[count]} together are:"
        for change in changes:
            yield f"{_and(change.what)}: fits, {seconds(change.seconds)} a step"


def _ranks_needed(found: Enough | Never | None) -> Iterator[str]:
    """How many ranks alone are enough, or what is lacking however many there are."""
    if isinstance(found, Enough):
        yield f"with nothing else changed, at least {found.ranks:,} ranks of this kind are needed" + (
            "" if found.divides else ", and prompts of which each minibatch has a multiple of that"
        )
    elif found is not None:
        lack, (what, most) = found.shortage, found.shortage.largest[0]
        yield (
            f"more ranks alone{'' if found.divides else ', with batches that divide over them,'} are not enough, up to "
            f"{found.most:,}: least is lacking on {found.ranks:,}, where "
            f"`{lack.op}` needs {size(lack.bytes)} more; the most is taken there by: {what} {size(most)}"
        )


def _fix(found: Remedies) -> str:
    if found.changes:
        several = " together" if len(found.changes[0].what) > 1 else ""
        return f"{_and(found.changes[0].what)}{several}"
    if isinstance(found.ranks, Enough):
        return f"at least {found.ranks.ranks:,} ranks"
    return "a smaller model, or devices with more memory"


def within_margin(module: Module, found: Diagnostics, shortage: Shortage, planned: Planned, hardware: Hardware) -> None:
    """RL0811 for what fits only if nothing is left to fragmentation; `shortage` is what is lacking then."""
    memory = planned.memory
    deploy = module.graph.deploy
    found.warning(
        "RL0811",
        f"fits only without a margin: `{memory.peak_op}` takes {size(memory.peak)} of {size(memory.budget)}",
        span=deploy.span if deploy else None,
        notes=(
            f"a plan leaves {1 - hardware.usable:.0%} of a device to fragmentation: "
            f"then `{shortage.op}` would lack {size(shortage.bytes)}",
        ),
        fix="more ranks or shorter rows; or say `usable` of the cluster if you know better",
    )


def pins_cost(found: Diagnostics, trials: Trials) -> None:
    """RL0812 for options of a training without which, all others being as they are, a step were much shorter."""
    pinned = [n for n in trials.start.module.graph.nodes if pins_of(n)]
    now = _step(trials.planned(trials.start))
    for node in pinned if now is not None else ():
        tried = trials.planned(Variant(trials.start).unpinned((node.id,)).draft)
        free = _step(tried)
        if now is None or tried is None or free is None or now <= free * (1 + _COSTLY):
            continue
        options = _and(f"`{n}`" for n in sorted(pins_of(node)))
        better = next(op for op in tried.plan.ops() if op.id == node.id)
        chosen = ", ".join(f"{n} = {_value(better, n)}" for n in sorted(pins_of(node)))
        found.warning(
            "RL0812",
            f"`{node.id}`: {options} as set costs {seconds(now - free)} a step",
            span=node.span,
            notes=(f"{seconds(now)} a step; with {chosen} it would be {seconds(free)}",),
            fix=f"leave {options} out: the compiler chooses",
        )


def _step(tried: Tried | None) -> float | None:
    """Seconds of a step, as `show --time` has them."""
    time = plan_time(tried.plan) if tried else None
    return time.step_seconds if isinstance(time, PlanTime) else None


def full_below(module: Module, found: Diagnostics, planned: Planned, hardware: Hardware) -> None:
    """RL0815 where a rank's states that leave the device, and are kept, do not fit the tiers below it."""
    if not planned.missing:
        return
    kept = {(op.model, op.state, op.staleness): op for op in planned.ops if isinstance(op, OnloadOp)}
    groups, world = {g.name: g for g in module.groups}, module.world_size
    assert world is not None, "memory is planned for ranks that are known"
    firsts = {first for op in kept.values() for first, _ in groups[op.group].spans(world)}
    there = {rank: [op for op in kept.values() if groups[op.group].index(rank, world) is not None] for rank in firsts}
    most = max(there.values(), key=lambda ops: sum(op.bytes for op in ops), default=[])
    needed, deploy = sum(op.bytes for op in most), module.graph.deploy
    found.error(
        "RL0815",
        "what leaves the device does not fit below it",
        span=deploy.span if deploy else None,
        expected=" and ".join(f"at most {size(t.bytes)} {_TIERS[t.tier]}" for t in hardware.tiers) + " a rank",
        found=size(needed),
        notes=(
            *(f"{op.state} of {op.model}: {size(op.bytes)}" for op in sorted(most, key=lambda op: -op.bytes)),
            *(("each of them lies on one of the two, whole",) if len(hardware.tiers) > 1 else ()),
        ),
        fix=f"more ranks; or say {_room_below(hardware)} of the cluster, in GiB a rank, if there is more",
    )


_TIERS = {Tier.HOST: "of the host's memory", Tier.DISK: "of disk"}


def _room_below(hardware: Hardware) -> str:
    """The figures that say how much there is."""
    return "`host_memory`" if hardware.name == "cpu" else "`host_memory` or `disk_memory`"


def size(count: int) -> str:
    """`71.3 GiB`; below a GiB in MiB, below ten of these in KiB."""
    if count >= GIB:
        return f"{count / GIB:,.1f} GiB"
    return f"{count / (1 << 20):,.0f} MiB" if count >= 10 << 20 else f"{-(-count >> 10):,} KiB"


def seconds(count: float) -> str:
    """`12.3 s`."""
    return f"{count:,.1f} s" if count >= 1 else f"{count:.2g} s"


def _place(module: Module, op: str) -> Span | None:
    """The node's, else that of the deployment."""
    node, deploy = module.graph.node_of.get(op), module.graph.deploy
    return node.span if node else deploy.span if deploy else None
