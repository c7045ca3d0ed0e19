"""The arithmetic of an op's or a model's memory: each term with its formula, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rldsl.compiler.cost.memory_terms import Origin, Term
from rldsl.compiler.cost.op_terms import OpTerms, PlanTerms
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, Program, StateSpec
from rldsl.render.memory import neighbour, presence, states_on
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
    for said in told:
        lines = tuple((head, tuple(each)) for head, each in _one(memory, said, known.get(said.rank)))
        alike.setdefault(lines, []).append(programs[said.rank])
    found: list[Lines] = []
    for several, on in alike.items():
        where = " and ".join(ranks_of(p, plan.world_size) for p in on) if len(alike) > 1 else ""
        found += [(f"{head}, {where}" if where else head, list(each)) for head, each in several]
    return found


def _one(memory: MemoryPlan, said: OpMemory, terms: OpTerms | None) -> Iterator[Lines]:
    whole = said.resident + said.workspace + memory.reserve
    states, beside, aside = map(memory_words, (said.resident, said.workspace, memory.reserve))
    parts = f"{states} of states + {beside} beside them + {aside} set aside"
    least = f", {memory_words(memory.budget - whole)} below the budget"
    seconds = memory.seconds.get(said.op)
    yield "memory", [f"{parts} = {memory_words(whole)} a rank at the most, `{said.at}`{least}"]
    if seconds:
        yield "predicted", [duration(seconds)]
    if terms is None or not terms.agrees:
        why = "the models' sizes are not at hand" if terms is None else "the models are others than the plan's"
        ordered = sorted(said.categories.items(), key=lambda item: -item[1])
        shares = [f"{category.replace('_', ' ')}: {memory_words(count)}" for category, count in ordered]
        yield "of which", [*shares, f"({why}: no arithmetic)"]
        return
    held = [(f"{key[0]}: ", term) for key, each in terms.states for term in each]
    yield "states", _listed(held, whole)
    yield "beside them", _listed([("", term) for term in terms.own], whole)


def _listed(terms: Sequence[tuple[str, Term]], whole: int) -> list[str]:
    """The greatest first; those that hardly count as one."""
    ordered = sorted(terms, key=lambda item: -item[1].bytes)
    shown = [(of, t) for of, t in ordered if t.bytes >= _SMALL * whole] or ordered[:1]
    rest = [t for _, t in ordered[len(shown) :] if t.bytes]
    lines = [f"{memory_words(t.bytes)} {of}{term_words(t)}" for of, t in shown]
    if rest:
        lines.append(f"{memory_words(sum(t.bytes for t in rest))} in {plural(len(rest), 'smaller term')}")
    return lines


def term_words(term: Term) -> str:
    """`weights: 4 B x 7,615,616,512 parameters / 8 ranks`, and where a figure is no formula's, whose it is."""
    return f"{term.what}: {term.formula}{_ORIGINS[term.origin]}"


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
                found += [f"{memory_words(t.bytes)} {term_words(t)}" for t in each]
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
