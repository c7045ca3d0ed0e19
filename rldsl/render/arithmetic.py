"""The arithmetic of an op's or a model's memory: each term with its formula, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rldsl.compiler.cost.memory_terms import Origin, Term
from rldsl.compiler.cost.op_terms import OpTerms, PlanTerms
from rldsl.compiler.cost.term_words import Words, formula_words
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, Program, StateSpec
from rldsl.render.memory import lasting, neighbour, presence, states_on
from rldsl.render.ranks import ranks_of
from rldsl.render.words import duration, memory_words, plural, state_words

_SMALL = 0.001  # terms of a smaller part of the whole are told together
_ORIGINS = {Origin.FORMULA: "", Origin.CONFIGURATION: " (as configured)", Origin.MEASURED: " (measured once)"}

Lines = tuple[str, list[str]]
"""A heading and what stands under it."""


def op_lines(plan: Plan, terms: PlanTerms | None, op: AnyOp) -> list[Lines]:
    """What the op takes of each class of ranks; the sums alone where the models' sizes are not at hand."""
    memory = plan.memory
    if memory is None:
        return []
    told = [m for m in memory.ops if m.op == op.id]
    known = {t.said.rank: t for t in terms.of(op.id)} if terms else {}
    programs = {p.first: p for p in plan.programs}
    alike: dict[tuple[tuple[str, tuple[str, ...]], ...], list[Program]] = {}
    took = [*filter(None, [_seconds(plan, memory, op)])]
    if took and terms is not None and all(t.agrees for t in known.values()):
        took += terms.second_words(op, lasting(plan).get(op.id, 0.0))
    for said in told:
        made = _one(memory, said, known.get(said.rank), _Behind(terms, op), took)
        lines = tuple((head, tuple(each)) for head, each in made)
        alike.setdefault(lines, []).append(programs[said.rank])
    found: list[Lines] = []
    for several, on in alike.items():
        where = " and ".join(ranks_of(p, plan.world_size) for p in on) if len(alike) > 1 else ""
        found += [(f"{head}, {where}" if where else head, list(each)) for head, each in several]
    return found


@dataclass(frozen=True)
class _Behind:
    """What the numbers of an op are made of, where the models' sizes are at hand."""

    terms: PlanTerms | None
    op: AnyOp

    @cached_property
    def own(self) -> Words:
        """Of what is beside the states."""
        return self.terms.words(self.op) if self.terms else {}

    def state(self, model: str) -> Words:
        """Of a model's states."""
        return self.terms.state_words(model) if self.terms else {}

    def sources(self, models: Iterable[str]) -> list[str]:
        """Where the figures come from: configurations of `models`, what is set aside."""
        if self.terms is None:
            return []
        told = [self.terms.facts_words(model) for model in dict.fromkeys(models)]
        return [*told, f"set aside: {self.terms.reserve_words()}"]


def _one(
    memory: MemoryPlan, said: OpMemory, terms: OpTerms | None, behind: _Behind, took: list[str]
) -> Iterator[Lines]:
    whole = said.resident + said.workspace + memory.reserve
    states, beside, aside = map(memory_words, (said.resident, said.workspace, memory.reserve))
    parts = f"{states} of states + {beside} beside them + {aside} set aside"
    least = f", {memory_words(memory.budget - whole)} below the budget"
    yield "memory", [f"{parts} = {memory_words(whole)} a rank at the most, `{said.at}`{least}"]
    if took:
        yield "predicted", took
    if terms is None or not terms.agrees:
        why = "the models' sizes are not at hand" if terms is None else "the models are others than the plan's"
        ordered = sorted(said.categories.items(), key=lambda item: -item[1])
        shares = [f"{category.replace('_', ' ')}: {memory_words(count)}" for category, count in ordered]
        yield "of which", [*shares, f"({why}: no arithmetic)"]
        return
    of = {key[0]: behind.state(key[0]) for key, _ in terms.states}
    held = [(f"{key[0]}: ", term, of[key[0]]) for key, each in terms.states for term in each]
    yield "states", _listed(held, whole)
    own = {**behind.own, **{name: text for each in of.values() for name, text in each.items()}}
    yield "beside them", _listed([("", term, own) for term in terms.own], whole)
    yield "figures", behind.sources(key[0] for key, _ in terms.states)


def _seconds(plan: Plan, memory: MemoryPlan, op: AnyOp) -> str:
    """`12.5 s`; of what runs beside other ops how much these hide."""
    whole, hidden = lasting(plan).get(op.id, 0.0), memory.hidden.get(op.id)
    if hidden is None:
        return duration(whole) if whole else ""
    waited = f"{duration(whole - hidden)} are waited for" if whole > hidden else "nothing is waited for"
    return f"{duration(whole)}, {duration(hidden)} of it beside other ops; {waited}"


def _listed(terms: Sequence[tuple[str, Term, Words]], whole: int) -> list[str]:
    """The greatest first; those that hardly count as one."""
    ordered = sorted(terms, key=lambda item: -item[1].bytes)
    shown = [item for item in ordered if item[1].bytes >= _SMALL * whole] or ordered[:1]
    rest = [t for _, t, _ in ordered[len(shown) :] if t.bytes]
    lines = [f"{memory_words(t.bytes)} {of}{term_words(t, words)}" for of, t, words in shown]
    if rest:
        lines.append(f"{memory_words(sum(t.bytes for t in rest))} in {plural(len(rest), 'smaller term')}")
    return lines


def term_words(term: Term, words: Words) -> str:
    """`weights: 4 B x 7,615,616,512 parameters / 8 ranks`, what these are made of, and whose a measured figure is."""
    return f"{term.what}: {formula_words(term, words)}{_ORIGINS[term.origin]}"


def state_lines(plan: Plan, terms: PlanTerms | None, models: Iterable[str]) -> list[str]:
    """The states of some models: bytes a rank, when they are on the device, and their arithmetic."""
    wanted, found = set(models), []
    seen: set[tuple[StateSpec, str]] = set()
    for program in plan.programs:
        for state in states_on(plan, program):
            when = presence(program, state)
            if state.model in wanted and (state, when) not in seen:
                seen.add((state, when))
                found.append(f"{state_words(state)}, {memory_words(state.bytes)} a rank, on the device {when}")
                each = terms.state((state.model, state.state, state.staleness)) if terms else ()
                words = terms.state_words(state.model) if terms and each else {}
                found += [f"{memory_words(t.bytes)} {term_words(t, words)}" for t in each]
    return found


def move_purpose(plan: Plan, op: OnloadOp | OffloadOp) -> Iterator[str]:
    """For which op a move is there."""
    for program in plan.programs:
        for number, each in enumerate(program.ops):
            if each.id == op.id:
                beside = neighbour(program, number)
                if isinstance(op, OnloadOp):
                    yield f"`{beside}` works with it"
                else:
                    yield f"`{beside}` has used it last; {memory_words(op.bytes)} are room for what follows"
