"""The whole proof: from a finished plan to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

from rldsl.compiler.plan import Plan
from rldsl.compiler.signature import Signature
from rldsl.compiler.verify.background import background
from rldsl.compiler.verify.calls import calls
from rldsl.compiler.verify.collections import collections
from rldsl.compiler.verify.description import description
from rldsl.compiler.verify.facts import Facts
from rldsl.compiler.verify.header import header
from rldsl.compiler.verify.heads import heads
from rldsl.compiler.verify.memory import memory
from rldsl.compiler.verify.names import names
from rldsl.compiler.verify.numbers import groups, numbers
from rldsl.compiler.verify.order import order
from rldsl.compiler.verify.residency import residency
from rldsl.compiler.verify.rows import rows
from rldsl.compiler.verify.tiers import tiers
from rldsl.compiler.verify.weights import weights
from rldsl.diagnostics import Diagnostic

PROVED = (
    "names",
    "sizes",
    "one order of collectives on all ranks",
    "residency",
    "what runs in the background is waited for",
    "types and rows",
    "calls",
    "collections",
    "freshness of weights",
    "memory",
    "the graph it says it is",
)
"""What an empty list of problems means, in a few words each."""

_CHECKS = (header, numbers, order, residency, background, collections, rows, heads, weights, memory, tiers, description)


def verify_plan(plan: Plan, signatures: Mapping[str, Signature] | None = None) -> list[Diagnostic]:
    """Everything wrong with a finished plan, as RL0505; an empty list is the proof of what docs/verifier.md states.

    `signatures` are those of the user's functions, by name, as far as they are at hand; shipped ones are known. Nothing
    is run, and time grows with the number of ops, not of ranks. Assumed: an op returns or raises, and ranks run their
    program in order.
    """
    problems = [*names(plan), *groups(plan)]
    if not problems:  # else the other checks would look up what is not there, or divide by nothing
        facts = Facts(plan)
        problems = [p for check in _CHECKS for p in check(facts)]
        problems += calls(facts, signatures or {})
    said = dict.fromkeys(problems)
    return [Diagnostic(code="RL0505", message=p, fix="compile it again from the source") for p in said]
