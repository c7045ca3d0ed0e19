"""What ops need of memory is what their models' configurations call for, where these are at hand."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.cost.op_terms import OpTerms, plan_terms
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic


def check_needs(plan: Plan) -> list[Diagnostic] | None:
    """RL0505 for each op that takes more than a proved plan says; None where the models' sizes are not at hand.

    The formulas are those that the compiler has planned with (docs/memory.md): this finds figures that were changed,
    and models that are others than the plan's, not a formula that is wrong. A plan may say more than is needed.
    """
    terms = plan_terms(plan)
    if terms is None:
        return None
    problems = (p for op in plan.ops() for each in terms.of(op.id) for p in _short(each))
    return [Diagnostic(code="RL0505", message=p, fix="compile it again from the source") for p in problems]


def _short(terms: OpTerms) -> Iterator[str]:
    said, where = terms.said, f"`{terms.said.op}` on the ranks from {terms.program.first} on"
    states = sum(t.bytes for _, each in terms.states for t in each)
    own = sum(t.bytes for t in terms.own)
    if states > said.resident:
        of = f"{states:,} bytes by its models' configurations"
        yield f"{where} has states of {of}, and the plan says {said.resident:,}"
    if own > said.workspace:
        of = f"{own:,} bytes beside its states by its models' configurations"
        yield f"{where} needs {of}, and the plan says {said.workspace:,}"
