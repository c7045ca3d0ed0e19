"""Layouts against the models that they divide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import log2
from typing import ClassVar

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Module, PhaseLayout
from rldsl.compiler.layouts import Layouts, relaid, sizes_of
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Group, PhaseSpec
from rldsl.compiler.specs import model_spec
from rldsl.diagnostics import DiagnosticError, Diagnostics

# Where several axes are wrong at once, so many ways to put them right are told.
_TOLD = 2


@dataclass(frozen=True, kw_only=True)
class CheckShapes:
    """Check that the axes of a group divide a model's heads, layers and experts, where its size is known.

    Before: `actor.generate : vllm(tp = 3)` of a model of 28 heads.   After: RL0813, or the same module.
    """

    name: ClassVar[str] = "check_shapes"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is; RL0813 for each phase that cannot be laid out so."""
        groups = {g.name: g for g in module.groups}
        for phase in module.phases:
            group = groups[phase.group]
            if group.tp == group.pp == group.ep == 1:
                continue
            facts = _facts(phase, module)
            if facts is not None:
                _check(phase, group, facts, module, context.found)
        return module


def _check(phase: PhaseSpec, group: Group, facts: ModelFacts, module: Module, found: Diagnostics) -> None:
    """RL0813 for each axis that does not divide what it cuts."""
    where, layout = f"`{phase.model}.{phase.phase}`", _layout(phase, module)
    span = layout.span if layout else None
    wrong = list(_undivided(facts, group))
    instead = _instead(layout, [axis for _, _, axis, _ in wrong], facts, module) if layout and wrong else ""
    for what, count, axis, size in wrong:
        found.error(
            "RL0813",
            f"{where}: {count} {what} do not divide over {axis} = {size}",
            span=span,
            expected=instead or f"a divisor of {count}",
            found=f"{axis} = {size}",
        )
    if group.ep > 1 and not facts.experts:
        what = f"{where}: `{phase.model}` has no experts to spread over ep = {group.ep}"
        found.error("RL0813", what, span=span, expected="a model with experts", fix="leave `ep` out")


def _layout(phase: PhaseSpec, module: Module) -> PhaseLayout | None:
    """Where the deployment lays the phase out, if it does."""
    layouts = module.graph.deploy.layouts if module.graph.deploy else ()
    return next((p for p in layouts if (p.model, p.phase) == (phase.model, phase.phase)), None)


def _instead(layout: PhaseLayout, wrong: list[str], facts: ModelFacts, module: Module) -> str:
    """The nearest sizes of the wrong axes, all at once, that are right: `tp = 2 or 4`, `tp = 1 and pp = 2`.

    They divide the model, fill the ranks, and leave a dp over which prompts divide; empty where there are none.
    """
    sizes = {a: n for a, n in sizes_of(layout).items() if a != "ep" or facts.experts}
    tried = product(*(_divisors(_count(facts, axis)) for axis in wrong))
    made = [relaid(layout, {**sizes, **dict(zip(wrong, each, strict=True))}) for each in tried]
    right = sorted((p for p in made if _is_right(p, facts, module)), key=lambda p: _distance(sizes_of(p), sizes, wrong))
    if not right:
        return ""
    if len(wrong) > 1 or "dp" in sizes:
        told = [*wrong, *(["dp"] if "dp" in sizes else [])]
        return " or ".join(" and ".join(f"{a} = {sizes_of(p).get(a, 1)}" for a in told) for p in right[:_TOLD])
    (axis,) = wrong
    found = sorted(sizes_of(p).get(axis, 1) for p in right)
    below, above = [n for n in found if n < sizes[axis]], [n for n in found if n > sizes[axis]]
    return f"{axis} = {' or '.join(map(str, [*below[-1:], *above[:1]]))}"


def _is_right(layout: PhaseLayout, facts: ModelFacts, module: Module) -> bool:
    """Whether a layout would be refused for nothing."""
    world, found = module.world_size, Diagnostics()
    group = Layouts(world, found).phase(layout)
    divides = world is None or module.divides % group.dp(world) == 0
    return divides and not found.has_errors and not any(_undivided(facts, group))


def _distance(sizes: Mapping[str, int], wanted: Mapping[str, int], axes: list[str]) -> float:
    return sum(abs(log2(sizes.get(a, 1) / wanted[a])) for a in axes)


def _count(facts: ModelFacts, axis: str) -> int:
    return {"tp": facts.heads, "pp": facts.layers, "ep": facts.experts}[axis]


def _facts(phase: PhaseSpec, module: Module) -> ModelFacts | None:
    """A model of which nothing is known may have any size."""
    try:
        found = facts_of(model_spec(module.graph.model_of[phase.model], module))
    except DiagnosticError:
        return None
    return None if isinstance(found, NoFacts) else found


def _undivided(facts: ModelFacts, group: Group) -> Iterator[tuple[str, int, str, int]]:
    """What is cut, how many there are, the axis and its size. Fewer key heads than ranks are held several times."""
    tp = group.tp
    if facts.heads % tp:
        yield "heads", facts.heads, "tp", tp
    elif facts.kv_heads % tp and tp % facts.kv_heads:
        yield "key heads", facts.kv_heads, "tp", tp
    if facts.layers % group.pp:
        yield "layers", facts.layers, "pp", group.pp
    if facts.experts % group.ep:
        yield "experts", facts.experts, "ep", group.ep


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]
