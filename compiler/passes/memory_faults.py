"""What is said of a plan that does not fit its memory, fits barely, or pays for what the user has fixed."""

from __future__ import annotations

from collections.abc import Mapping

from rldsl.compiler.cost.hardware import GIB, Hardware
from rldsl.compiler.cost.memory_changes import changes
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Module
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
    possible = changes(planner.plan, planner.ops, facts, planner.hardware, pinned, budget)
    helps = tuple(f"{c.what}: fits, {seconds(c.seconds)} a step" for c in possible)
    found.error(
        "RL0810",
        f"does not fit: `{shortage.op}` needs {size(shortage.bytes)} more than a rank has",
        span=_place(module, shortage.op),
        expected=f"at most {size(budget)} a rank",
        found=size(shortage.need),
        notes=(
            "states that the op does not use are off the device by then, micro-batches as small as they can be",
            f"the most is taken by: {largest}",
            *helps,
        ),
        fix=f"the fastest change that makes it fit: {possible[0].what}" if possible else "more ranks, or shorter rows",
    )


def within_margin(module: Module, found: Diagnostics, shortage: Shortage, planned: Planned, hardware: Hardware) -> None:
    """RL0811 for what fits only if nothing is left to fragmentation."""
    memory = planned.memory
    deploy = module.graph.deploy
    found.warning(
        "RL0811",
        f"fits only without a margin: `{memory.peak_op}` takes {size(memory.peak)} of {size(memory.budget)}",
        span=deploy.span if deploy else None,
        notes=(f"a plan leaves {1 - hardware.usable:.0%} of a device to fragmentation",),
        fix="more ranks, shorter rows or smaller micro-batches; or say `usable` of the cluster if you know better",
    )


def pins_cost(
    module: Module,
    found: Diagnostics,
    planned: Planned,
    free: Planned | Shortage,
    pinned: Mapping[str, frozenset[str]],
) -> None:
    """RL0812 for options without which a step were much shorter."""
    if isinstance(free, Shortage) or planned.step <= free.step * (1 + _COSTLY):
        return
    for node, names in pinned.items():
        own, other = (p.memory.seconds.get(node, 0.0) for p in (planned, free))
        if own > other * (1 + _COSTLY):
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
