"""The arithmetic of a plan's memory, made again from what is known of its models: a plan itself has only the sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from rldsl.compiler.cost.find_facts import config_of, facts_of, models_folder
from rldsl.compiler.cost.footprints import Footprints, Key
from rldsl.compiler.cost.hardware import hardware_of
from rldsl.compiler.cost.memory_terms import Category, Term, product
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.reserve import reserved
from rldsl.compiler.cost.seconds_words import second_words
from rldsl.compiler.cost.term_words import Words, all_words, state_words
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, Program
from rldsl.compiler.ranks import contains
from rldsl.diagnostics import DiagnosticError


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTerms:
    """What an op takes of each rank of `program` at its peak: `states` on the device, and `own` beside them.

    `agrees`: they add up to what the plan says. They do not where the models are others than it was made for.
    """

    program: Program
    said: OpMemory
    states: tuple[tuple[Key, tuple[Term, ...]], ...]
    own: tuple[Term, ...]

    @property
    def agrees(self) -> bool:
        """Whether terms and plan have the same bytes."""
        states = sum(t.bytes for _, terms in self.states for t in terms)
        return (states, sum(t.bytes for t in self.own)) == (self.said.resident, self.said.workspace)


class PlanTerms:
    """The terms of all ops of a plan with memory."""

    def __init__(self, plan: Plan, memory: MemoryPlan, footprints: Footprints) -> None:
        self._plan, self.memory, self._footprints = plan, memory, footprints

    def of(self, op: str) -> tuple[OpTerms, ...]:
        """Of the op called so, for each class of ranks that runs it."""
        return self._terms.get(op, ())

    def state(self, key: Key) -> tuple[Term, ...]:
        """Of a state between ops; nothing of one that is not there."""
        held = self._footprints.states.get(key)
        return held.terms if held else ()

    def words(self, op: AnyOp) -> Words:
        """The arithmetic behind the numbers of an op's own terms."""
        return all_words(self._footprints.made(op))

    def state_words(self, model: str) -> Words:
        """The arithmetic behind the numbers of a model's states."""
        return state_words(self._footprints.largest(model))

    def second_words(self, op: AnyOp, predicted: float) -> tuple[str, ...]:
        """What the op's predicted seconds are made of."""
        return second_words(self._footprints, op, predicted)

    def facts_words(self, model: str) -> str:
        """Where the figures of a model come from, and how many parameters it has."""
        spec = self._plan.model(model)
        config = config_of(spec)
        where = str(config) if config else f"the arguments of `{spec.source}`"
        if config and config.parent == models_folder():
            where = f"{config.name}, shipped with rldsl for `{spec.source}`"
        return f"{model}: {self._footprints.facts[model].parameters:,} parameters, by {where}"

    def reserve_words(self) -> str:
        """What is set aside, and whose figure that is."""
        hardware, size = self._footprints.hardware, self.memory.reserve
        if hardware.name == "cpu":
            parts = ", ".join(f"{t.what} {t.formula}" for t in self._footprints.process)
            return f"{size:,} B, measured: {parts} (how: compiler/cost/reserve.py)"
        communicators = 1 if self._footprints.world > 1 else 0
        lost = reserved(cuda=True, communicators=communicators)
        text = ", ".join(f"{t.what} {t.bytes >> 20:,} MiB" for t in lost)
        return (
            f"{size:,} B, a round figure that was not measured here; published: {text} (who has measured them: "
            "compiler/cost/reserve.py)"
        )

    @cached_property
    def _terms(self) -> dict[str, tuple[OpTerms, ...]]:
        found: dict[str, list[OpTerms]] = {}
        for program in self._plan.programs:
            for terms in self._walk(program):
                found.setdefault(terms.said.op, []).append(terms)
        return {op: tuple(terms) for op, terms in found.items()}

    def _walk(self, program: Program) -> Iterator[OpTerms]:
        """In the order of the program, with the states that are on the device by then."""
        said = {m.op: m for m in self.memory.ops if m.rank == program.first}
        world = self._footprints.world
        ranks = ((program.first, program.last or world),)
        held = self._footprints.states
        mine = {k for k, h in held.items() if contains(self._plan.group(h.group).spans(world), ranks)}
        resident = {(s.model, s.state, s.staleness): s.resident for s in self.memory.states}
        here = {key for key in mine if resident.get(key, True)}
        for op, fields in zip(program.ops, self._footprints.fields(program.ops), strict=True):
            if isinstance(op, OnloadOp):
                here.add((op.model, op.state, op.staleness))
            here |= mine.intersection(self._footprints.renews(op))
            if op.id in said:
                # While a state moves, nothing but fields is beside the states.
                columns = said[op.id].workspace if isinstance(op, OnloadOp | OffloadOp) else fields
                yield self._op(program, op, said[op.id], here, columns)
            if isinstance(op, OffloadOp):
                here.discard((op.model, op.state, op.staleness))

    def _op(self, program: Program, op: AnyOp, said: OpMemory, here: set[Key], fields: int) -> OpTerms:
        states = tuple((key, held.terms) for key, held in self._footprints.states.items() if key in here)
        own = [
            *self._beside(op),
            product(Category.FIELDS, "fields of the batch", (fields, "B")),
        ]
        return OpTerms(program=program, said=said, states=states, own=tuple(t for t in own if t.bytes))

    def _beside(self, op: AnyOp) -> Iterator[Term]:
        """The terms of the op's peak without its states."""
        footprint = self._footprints.footprint(op)
        if footprint is None:
            return
        left = list(footprint.resident)
        for term in footprint.peak.terms:
            if term in left:
                left.remove(term)
            else:
                yield term


def plan_terms(plan: Plan) -> PlanTerms | None:
    """The terms of `plan`; None where not all of it is known."""
    if plan.memory is None or plan.world_size is None:
        return None
    facts: dict[str, ModelFacts] = {}
    for spec in plan.models:
        try:
            found = facts_of(spec)
        except DiagnosticError:
            return None
        if not isinstance(found, ModelFacts):
            return None
        facts[spec.name] = found
    return PlanTerms(plan, plan.memory, Footprints(plan, facts, hardware_of(plan.cluster or "cpu", plan.figures)))
