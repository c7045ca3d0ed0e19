"""How many bytes a model's weights have when they go from one rank to another."""

from __future__ import annotations

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError

_BYTES = {"fp32": 4, "bf16": 2}


def weight_bytes(plan: Plan) -> dict[str, int]:
    """By model one copy of all its weights, in its own precision; without those whose configuration is not at hand."""
    found = {}
    for model in plan.models:
        try:
            facts = facts_of(model)
        except DiagnosticError:  # a view is no place to complain of a configuration that cannot be read
            continue
        if not isinstance(facts, NoFacts):
            found[model.name] = facts.blocks.total * _BYTES[model.precision]
    return found
