"""Layouts against the models that they divide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Group, PhaseSpec
from rldsl.compiler.specs import model_spec
from rldsl.diagnostics import DiagnosticError, Diagnostics, Span


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
                _check(phase, group, facts, _span(phase, module), context.found)
        return module


def _check(phase: PhaseSpec, group: Group, facts: ModelFacts, span: Span | None, found: Diagnostics) -> None:
    """RL0813 for each axis that does not divide what it cuts."""
    where = f"`{phase.model}.{phase.phase}`"
    for what, count, axis, size in _undivided(facts, group):
        found.error(
            "RL0813",
            f"{where}: {count} {what} do not divide over {axis} = {size}",
            span=span,
            expected=f"{axis} = {' or '.join(map(str, _divisors(count, size)))}",
            found=f"{axis} = {size}",
        )
    if group.ep > 1 and not facts.experts:
        what = f"{where}: `{phase.model}` has no experts to spread over ep = {group.ep}"
        found.error("RL0813", what, span=span, expected="a model with experts", fix="leave `ep` out")


def _span(phase: PhaseSpec, module: Module) -> Span | None:
    """Where the deployment lays the phase out, if it does."""
    layouts = module.graph.deploy.layouts if module.graph.deploy else ()
    return next((p.span for p in layouts if (p.model, p.phase) == (phase.model, phase.phase)), None)


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


def _divisors(count: int, near: int) -> list[int]:
    """The nearest that divide `count`, below `near` and above."""
    found = [n for n in range(1, count + 1) if count % n == 0]
    below, above = [n for n in found if n < near], [n for n in found if n > near]
    return [*below[-1:], *above[:1]]
