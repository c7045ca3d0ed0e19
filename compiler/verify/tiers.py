"""What leaves the device has room below it: the states that come back, on the tier that each of them names."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.cost.hardware import HARDWARE, UNITS, Hardware, hardware_of
from rldsl.compiler.ops import OnloadOp
from rldsl.compiler.plan import Plan, Program
from rldsl.compiler.verify.facts import Facts, ranks_of


def tiers(facts: Facts) -> Iterator[str]:
    """Each state names a tier that the hardware has, and on no class of ranks do the copies take more than there is.

    The tier of what never comes back says nothing, so it is the nearest.

    A copy stays below while the state is on the device, so all that an op brings back count together, whenever it does.
    """
    memory = facts.plan.memory
    if memory is None:
        return
    hardware = _hardware(facts.plan)
    if hardware is None:
        yield "the plan has a budget of memory, and names hardware or figures of it that there are not"
        return
    known = [below.tier for below in hardware.tiers]
    back = {(op.model, op.state, op.staleness) for op in facts.ops if isinstance(op, OnloadOp)}
    for state in memory.states:
        where = f"the {state.state} of `{state.model}` is kept on `{state.tier}`"
        if state.tier not in known:
            yield f"{where}, which `{hardware.name}` has not"
        elif state.tier is not known[0] and (state.model, state.state, state.staleness) not in back:
            yield f"{where}, and nothing brings it back from there"
    for program in facts.plan.programs:
        yield from _kept(program, hardware)


def _hardware(plan: Plan) -> Hardware | None:
    """That of the plan; a processor where it names none, as the planner has it."""
    name = plan.cluster or "cpu"
    if name not in HARDWARE or any(figure not in UNITS or value <= 0 for figure, value in plan.figures.items()):
        return None
    return hardware_of(name, plan.figures)


def _kept(program: Program, hardware: Hardware) -> Iterator[str]:
    copies = {(op.model, op.state, op.staleness): op for op in program.ops if isinstance(op, OnloadOp)}
    for below in hardware.tiers:
        needed = sum(op.bytes for op in copies.values() if op.tier is below.tier)
        if needed > below.bytes:
            where = f"({ranks_of(program)})"
            yield f"what comes back from `{below.tier}` takes {needed:,} bytes of {below.bytes:,} there {where}"
