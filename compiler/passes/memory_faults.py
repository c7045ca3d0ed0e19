"""What is said of a plan that does not fit its memory, fits barely, or pays for what the user has fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rldsl.compiler.cost.hardware import GIB, Hardware
from rldsl.compiler.cost.memory_changes import Remedies, remedies
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Module
from rldsl.compiler.ops import OnloadOp, Tier
from rldsl.diagnostics import Diagnostics, Span

# A pin that makes a step longer by this part is worth a word.
_COSTLY = 0.10


def does_not_fit(
    module: Module,
    found: Diagnostics,
    shortage: Shortage,
    planner: MemoryPlanner,
    budget: int,
    facts: Mapping[str, ModelFacts],
    pinned: Mapping[str, frozenset[str]],
) -> None:
    """RL0810: by how much, where, what takes most, and what would help."""
    largest = ", ".join(f"{what} {size(count)}" for what, count in shortage.largest)
    help_ = remedies(planner.plan, planner.ops, facts, planner.hardware, pinned, budget)
    found.error(
        "RL0810",
        f"does not fit: `{shortage.op}` needs {size(shortage.bytes)} more than a rank has",
        span=_place(module, shortage.op),
        expected=f"at most {size(budget)} a rank",
        found=size(shortage.need),
        notes=(
            "states that the op does not use are off the device by then, micro-batches as small as they can be",
            f"the most is taken by: {largest}",
            *_helping(help_),
            *_ranks_needed(help_, module),
        ),
        fix=_fix(help_),
    )


_NUMBERS = {2: "two", 3: "three"}


def _helping(found: Remedies) -> Iterator[str]:
    """What makes it fit, the fastest first; or that nothing does."""
    if not found.changes:
        if found.tried:
            yield f"not enough, even together: {', '.join(found.tried)}"
        return
    together = len(found.changes[0].what)
    if together > 1:
        yield f"no single change is enough, {_NUMBERS[together]} together are:"
    for change in found.changes:
        yield f"{' and '.join(change.what)}: fits, {seconds(change.seconds)} a step"


def _ranks_needed(found: Remedies, module: Module) -> Iterator[str]:
    """How many ranks alone are enough, unless that is among the changes."""
    if found.ranks is not None and not any(len(c.what) == 1 and _RANKS in c.what[0] for c in found.changes):
        odd = module.divides % found.ranks
        yield f"with nothing else changed, at least {found.ranks:,} ranks of this kind are needed" + (
            ", and prompts of which each minibatch has a multiple of that" if odd else ""
        )
    if found.whole is not None:
        lack = f"`{found.whole.op}` needs {size(found.whole.bytes)} more even on thousands"
        yield f"more ranks alone are never enough: {lack}"


_RANKS = "`cluster "


def _fix(found: Remedies) -> str:
    if found.changes:
        return f"the fastest change that makes it fit: {' and '.join(found.changes[0].what)}"
    return "more ranks, or shorter rows" if found.whole is None else "a smaller model, or shorter rows"


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
        fix="more ranks, shorter rows or smaller micro-batches; or say `usable` of the cluster if you know better",
    )


def pins_cost(
    module: Module, found: Diagnostics, planned: Planned, free: Planned | Shortage, node: str, names: frozenset[str]
) -> None:
    """RL0812 for options of a node without which, all others being as they are, a step were much shorter."""
    if isinstance(free, Shortage) or free.missing or planned.step <= free.step * (1 + _COSTLY):
        return
    options = " and ".join(f"`{n}`" for n in sorted(names))
    better = next((op for op in free.ops if op.id == node), None)
    chosen = ", ".join(f"{n} = {getattr(better, n)}" for n in sorted(names))
    found.warning(
        "RL0812",
        f"`{node}`: {options} as set costs {seconds(planned.step - free.step)} a step",
        span=_place(module, node),
        notes=(f"{seconds(planned.step)} a step; with {chosen} it would be {seconds(free.step)}",),
        fix=f"leave {options} out: the compiler chooses",
    )


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
    node = module.graph.node_of.get(op)
    return node.span if node else None
