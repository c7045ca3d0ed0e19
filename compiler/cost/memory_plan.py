"""The memory of a plan, fitted to a budget: the way of each op, and where states leave the device and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

from rldsl.compiler.cost.beside import transfers_beside
from rldsl.compiler.cost.footprints import Footprints, Held, Key
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.hoisting import Hoisting
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.moves import Moves, waited
from rldsl.compiler.cost.residency import Choice, Gap, Problem, Way, Work, choose, least
from rldsl.compiler.cost.residency_gaps import Between, Use, gaps_of
from rldsl.compiler.cost.tiers import Returning, Tiers
from rldsl.compiler.cost.time_model import move_seconds
from rldsl.compiler.cost.ways import Run, Runs
from rldsl.compiler.ops import (
    AnyOp,
    FreeOp,
    MetricOp,
    OffloadOp,
    OnloadOp,
    OutputOp,
    State,
    SyncWeightsOp,
    WaitOp,
    in_background,
)
from rldsl.compiler.plan import MemoryPlan, OpMemory, Plan, Program, StateSpec
from rldsl.compiler.ranks import contains

_SMALL = (FreeOp, WaitOp, MetricOp, OutputOp)
_UNBOUNDED = 1 << 62


class Placed(NamedTuple):
    """The ops as they are to run, moves among them, and what a plan says of its memory."""

    ops: tuple[AnyOp, ...]
    memory: MemoryPlan


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What fits: seconds of a step, bytes at its peak, and how it is done.

    `missing` are bytes that the tiers below the device lack for what is to come back from there, 0 where it fits. How
    it is done is worked out when asked for, as many orders of ops are compared by these alone: `at_once` with all moves
    where they are needed, `early` with some of them in the background, where the budget leaves room.
    """

    step: float
    peak: int
    missing: int
    at_once: Callable[[], Placed]
    early: Callable[[], Placed]

    @cached_property
    def _placed(self) -> Placed:
        return self.at_once()

    @property
    def ops(self) -> tuple[AnyOp, ...]:
        """With all moves where they are needed."""
        return self._placed.ops

    @property
    def memory(self) -> MemoryPlan:
        """Of these ops."""
        return self._placed.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """It does not fit even with all that can leave away: `bytes` are lacking in `op` on the ranks from `rank` on.

    `largest` are what takes most there, with its bytes.
    """

    op: str
    rank: int
    bytes: int
    need: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """An op, by number, on a class of ranks."""

    program: int
    op: int


class MemoryPlanner:
    """Plans the memory of `plan`, whose `ops` are those of all its programs, in one order.

    `smallest`: with the ways alone to run each op that need least, to see whether anything fits.
    """

    def __init__(
        self,
        plan: Plan,
        ops: Sequence[AnyOp],
        facts: Mapping[str, ModelFacts],
        hardware: Hardware,
        pinned: Mapping[str, frozenset[str]] | None = None,
        *,
        smallest: bool = False,
    ) -> None:
        self.plan, self.ops, self.hardware = plan, tuple(ops), hardware
        self.runs = Runs(plan, facts, hardware, pinned or {}, smallest=smallest)
        self.footprints: Footprints = self.runs.footprints
        self.number = {op.id: i for i, op in enumerate(self.ops)}
        self._problems: dict[int, Problem] = {}

    def fit(self, budget: int, *, moves: bool = True, highs: bool = True) -> Planned | Shortage:
        """The fastest plan that is found within so many bytes a rank.

        Without `moves` no state leaves the device; without `highs` that solver is not asked.
        """
        problem = self._problem(budget)
        if not moves:
            problem = replace(problem, gaps=())
        choice = choose(problem, highs=highs)
        if choice is None:
            return self._shortage(problem)
        below, missing = frozenset[Key](), self._tiers.lacking(problem, choice.swapped)
        if missing and (found := self._tiers.choose(problem, choice, highs=highs)) is not None:
            (below, choice), missing = found, 0
        free = problem.free(choice.swapped)
        runs = {
            op: self.runs.fullest(found[way], min(free[row] for row in work.rows))
            for (op, found), way, work in zip(self._runs.items(), choice.ways, problem.works, strict=True)
        }
        room = {(r.program, r.op): free[i] - runs[r.op].workspace for i, r in enumerate(self._rows)}
        placed = partial(self._placed, budget, choice, runs, room, below)
        # No move needs more than the op beside it.
        peak, early = budget - min(room.values()), partial(placed, early=True)
        return Planned(step=choice.seconds, peak=peak, missing=missing, at_once=placed, early=early)

    def least(self, budget: int | None) -> float:
        """Seconds of a step that no plan within so many bytes is below, None for any number of them."""
        return least(self._problem(_UNBOUNDED if budget is None else budget))

    def lacking(self, budget: int) -> dict[str, int]:
        """By op the bytes that it lacks where most, with all that can leave away; empty if any plan fits."""
        problem, found = self._problem(budget), dict[str, int]()
        for row, lack in problem.shortage(range(len(problem.gaps))).items():
            op = self.ops[self._rows[row].op].id
            found[op] = max(lack, found.get(op, 0))
        return found

    def shortage(self, budget: int) -> Shortage:
        """What is lacking of a budget that is too small."""
        return self._shortage(self._problem(budget))

    # States, their uses and gaps.

    @cached_property
    def _uses(self) -> dict[Key, tuple[Use, ...]]:
        found: dict[Key, list[Use]] = {key: [] for key in self.footprints.states}
        for number, op in enumerate(self.ops):
            changes, renews = self.footprints.changes(op), self.footprints.renews(op)
            for key in self._used(number):
                if key in found:
                    found[key].append(Use(number, changes=key in changes, renews=key in renews))
        return {key: tuple(uses) for key, uses in found.items()}

    def _used(self, number: int) -> tuple[Key, ...]:
        """The states that an op cannot be without, with those of the transfers that run beside it."""
        together = (self.ops[number], *self._transfers.get(number, ()))
        keys = ((*self.footprints.uses(op), *self.footprints.renews(op)) for op in together)
        return tuple(dict.fromkeys(key for each in keys for key in each))

    @cached_property
    def _transfers(self) -> dict[int, tuple[SyncWeightsOp, ...]]:
        return transfers_beside(self.ops)

    def _passing(self, program: int, number: int) -> int:
        """Bytes of the weights that transfers beside an op have in their hands on a class of ranks."""
        mine = (op for op in self._transfers.get(number, ()) if _Row(program, self.number[op.id]) in self._columns)
        return sum(run.workspace for op in mine for run in self._runs[self.number[op.id]][:1])

    @cached_property
    def _gaps(self) -> tuple[tuple[Held, Between], ...]:
        states = self.footprints.states
        return tuple((states[k], gap) for k, uses in self._uses.items() for gap in gaps_of(uses, len(self.ops)))

    @cached_property
    def _members(self) -> dict[tuple[Key, int], bool]:
        """Whether the ranks of a program hold a state."""
        world = self.footprints.world
        return {
            (key, i): contains(self.plan.group(held.group).spans(world), ((p.first, p.last or world),))
            for key, held in self.footprints.states.items()
            for i, p in enumerate(self.plan.programs)
        }

    @cached_property
    def _rows(self) -> tuple[_Row, ...]:
        """Ops that only bring others' data to an end need no more than these."""
        return tuple(
            _Row(p, self.number[op.id])
            for p, program in enumerate(self.plan.programs)
            for op in program.ops
            if not isinstance(op, _SMALL)
        )

    @cached_property
    def _columns(self) -> dict[_Row, int]:
        """Bytes of the fields that a rank holds during each op."""
        return {
            _Row(p, self.number[op.id]): size
            for p, program in enumerate(self.plan.programs)
            for op, size in zip(program.ops, self.footprints.fields(program.ops), strict=True)
        }

    @cached_property
    def _runs(self) -> dict[int, tuple[Run, ...]]:
        return {row.op: self.runs.of(self.ops[row.op]) for row in self._rows}

    def _states_of(self, program: int) -> Iterator[Held]:
        return (held for key, held in self.footprints.states.items() if self._members[key, program])

    # The problem.

    def _problem(self, budget: int) -> Problem:
        if budget not in self._problems:
            self._problems[budget] = self._posed(budget)
        return self._problems[budget]

    def _posed(self, budget: int) -> Problem:
        index = {row: i for i, row in enumerate(self._rows)}
        states = [sum(h.bytes for h in self._states_of(p)) for p in range(len(self.plan.programs))]
        reserve = self.footprints.reserve.bytes
        room = [
            budget - reserve - states[row.program] - self._columns[row] - self._passing(row.program, row.op)
            for row in self._rows
        ]
        gaps = []
        for held, gap in self._gaps:
            mine = [p for p in range(len(self.plan.programs)) if self._members[held.key, p]]
            over = frozenset(index[r] for p in mine for i in gap.idle if (r := _Row(p, i)) in index)
            seconds = self._nearest(held)
            write = None if gap.renewed or gap.version is None else self._version(held.key, gap.version)
            gaps.append(Gap(held.bytes, over, 0.0 if gap.renewed else seconds, write))
        works = [
            Work(
                tuple(index[row] for row in self._rows if row.op == op),
                tuple(Way(r.workspace, r.seconds) for r in runs),
            )
            for op, runs in self._runs.items()
        ]
        return Problem(tuple(room), tuple(works), tuple(gaps), tuple(self._writes.values()))

    @cached_property
    def _writes(self) -> dict[tuple[Key, int], float]:
        """What it costs to write back a state as it is after each of its uses that changes it."""
        states = self.footprints.states
        return {
            (key, i): self._nearest(states[key])
            for key, uses in self._uses.items()
            for i, use in enumerate(uses)
            if use.changes or use.renews
        }

    def _nearest(self, held: Held) -> float:
        """Seconds of a move to the nearest tier, or back."""
        return move_seconds(self.hardware, held.bytes, self.hardware.tiers[0].tier)

    @cached_property
    def _tiers(self) -> Tiers:
        gaps: dict[Key, list[int]] = {}
        for index, (held, gap) in enumerate(self._gaps):
            if not gap.renewed:
                gaps.setdefault(held.key, []).append(index)
        writes = [key for key, _ in self._writes]
        states = [
            Returning(
                key=key,
                bytes=self.footprints.states[key].bytes,
                programs=self._programs_with(key),
                gaps=frozenset(mine),
                writes=tuple(i for i, each in enumerate(writes) if each == key),
            )
            for key, mine in gaps.items()
        ]
        return Tiers(hardware=self.hardware, states=states, programs=len(self.plan.programs))

    def _version(self, key: Key, version: int) -> int:
        return list(self._writes).index((key, version))

    # The answer.

    def _shortage(self, problem: Problem) -> Shortage:
        every = range(len(problem.gaps))
        row, lack = max(problem.shortage(every).items(), key=lambda item: (item[1], -item[0]))
        at = self._rows[row]
        run = min(self._runs[at.op], key=lambda r: r.workspace)
        needed = self._needed(at)
        parts = [(f"{held.key[1]} of {held.key[0]}", held.bytes) for held in needed]
        if run.footprint is not None:
            own = set(run.footprint.resident)
            parts += [(t.what, t.bytes) for t in run.footprint.peak.terms if t not in own]
        parts += [
            ("fields of the batch", self._columns[at]),
            ("weights on their way beside it", self._passing(at.program, at.op)),
            (self.footprints.reserve.what, self.footprints.reserve.bytes),
        ]
        total = sum(size for _, size in parts)
        return Shortage(
            op=self.ops[at.op].id,
            rank=self.plan.programs[at.program].first,
            bytes=lack,
            need=total,
            largest=tuple(sorted(filter(lambda part: part[1], parts), key=lambda part: -part[1])[:5]),
        )

    def _needed(self, row: _Row) -> list[Held]:
        """The states that an op cannot be without."""
        keys = self._used(row.op)
        return [h for h in self._states_of(row.program) if h.key in keys]

    def _placed(
        self,
        budget: int,
        choice: Choice,
        runs: Mapping[int, Run],
        room: Mapping[tuple[int, int], int],
        below: frozenset[Key],
        *,
        early: bool = False,
    ) -> Placed:
        chosen = [self._gaps[i] for i in sorted(choice.swapped)]
        moves = Moves(self.ops, self._uses, chosen, self.hardware, below)
        if early:
            self._hoist(moves, room, runs)
        ops: list[AnyOp] = []
        for number, op in enumerate(self.ops):
            ops += moves.before(number)
            ops.append(runs[number].op if number in runs else op)
            ops += moves.after(number)
        return Placed(tuple(ops), self._memory(budget, choice, runs, moves))

    def _hoist(self, moves: Moves, room: Mapping[tuple[int, int], int], runs: Mapping[int, Run]) -> None:
        """Let moves begin early, in the room that the `runs` leave."""
        work, steady = [[0.0] * len(self.ops) for _ in self.plan.programs], self._steady(runs)
        for program, number in room:
            work[program][number] = steady.get(self.ops[number].id, 0.0)
        groups = {held.group: self._programs_with(key) for key, held in self.footprints.states.items()}
        moves.hoist(Hoisting(work, room, moves.cuts(groups, len(work))), groups)

    def _programs_with(self, key: Key) -> tuple[int, ...]:
        return tuple(p for p in range(len(self.plan.programs)) if self._members[key, p])

    def _steady(self, runs: Mapping[int, Run]) -> dict[str, float]:
        """Seconds of what hides moves: not of ops that run in some steps only, nor of those that run beside others."""
        ops = ((self.ops[number], run.seconds) for number, run in runs.items())
        return {op.id: seconds for op, seconds in ops if op.guard is None and not in_background(op)}

    def _moved(self, runs: Mapping[int, Run], moves: Moves) -> dict[str, float]:
        """What moves and their waits add to a step, on the ranks where that is most."""
        steady = self._steady(runs)
        found: dict[str, float] = {}
        for program, ranks in enumerate(self.plan.programs):
            mine = {op.id for op in ranks.ops}
            groups = {held.group for held in self._states_of(program)}
            for name, lasting in waited(moves.sequence(mine, groups), steady | moves.seconds):
                found[name] = max(found.get(name, 0.0), lasting)
        return found

    def _memory(self, budget: int, choice: Choice, runs: Mapping[int, Run], moves: Moves) -> MemoryPlan:
        reserve = self.footprints.reserve.bytes
        told = [m for p in range(len(self.plan.programs)) for m in self._told(p, runs, moves)]
        most = max(told, key=lambda m: m.workspace + m.resident)
        naive = [self._naive(row) for row in self._rows]
        unplanned = max(range(len(naive)), key=lambda i: naive[i])
        seconds = {self.ops[i].id: run.seconds for i, run in runs.items() if run.seconds}
        moved = self._moved(runs, moves)
        return MemoryPlan(
            budget=budget,
            reserve=reserve,
            states=tuple(self._specs(moves)),
            ops=tuple(told),
            peak=most.workspace + most.resident + reserve,
            peak_op=most.op,
            unplanned=naive[unplanned] + reserve,
            unplanned_op=self.ops[self._rows[unplanned].op].id,
            seconds={op: round(s, 6) for op, s in (seconds | moved).items()},
            moved_seconds=round(sum(moved.values()), 6),
            hidden={op: round(s, 6) for op, s in moves.hidden(moved).items()},
            solver=choice.solver,
            gap=round(choice.gap, 6),
            assumed=self.footprints.assumed,
        )

    def _specs(self, moves: Moves) -> Iterator[StateSpec]:
        """The states, as a plan has them."""
        for (model, state, staleness), held in self.footprints.states.items():
            yield StateSpec(
                model=model,
                state=State(state),
                group=held.group,
                bytes=held.bytes,
                staleness=staleness,
                dirty=held.dirty,
                resident=moves.resident(held.key),
                tier=moves.tier(held.key),
            )

    def _naive(self, row: _Row) -> int:
        """With all states on the device, and ops run as the engine would by itself."""
        states = sum(h.bytes for h in self._states_of(row.program))
        usual = self.runs.usual(self.ops[row.op])
        return states + usual + self._columns[row] + self._passing(row.program, row.op)

    def _told(self, program: int, runs: Mapping[int, Run], moves: Moves) -> Iterator[OpMemory]:
        """What a class of ranks holds in each of its ops, moves included."""
        ranks: Program = self.plan.programs[program]
        mine = {op.id for op in ranks.ops}
        here = {h.key for h in self._states_of(program) if moves.resident(h.key)}
        for number, op in enumerate(self.ops):
            for back in moves.before(number):
                if isinstance(back, OnloadOp) and self._members[_key(back), program]:
                    here.add(_key(back))
                    yield self._move(back, here, number, program)
            row = _Row(program, number)
            if op.id in mine and row in self._columns:
                here |= {h.key for h in self._needed(row)}
                if number in runs:
                    yield self._op(row, runs[number], here)
            for away in moves.after(number):
                if self._members[_key(away), program]:
                    yield self._move(away, here, number, program)
                    here.discard(_key(away))

    def _op(self, row: _Row, run: Run, here: set[Key]) -> OpMemory:
        categories: dict[str, int] = {}
        at = "throughout"
        if run.footprint is not None:
            peak, own = run.footprint.peak, list(run.footprint.resident)
            at = peak.name
            for term in peak.terms:
                if term in own:
                    own.remove(term)
                else:
                    categories[term.category] = categories.get(term.category, 0) + term.bytes
        categories["fields"] = categories.get("fields", 0) + self._columns[row]
        passing = self._passing(row.program, row.op)
        categories["communication"] = categories.get("communication", 0) + passing
        workspace = run.workspace + self._columns[row] + passing
        return self._memory_of(run.op.id, row.program, workspace, at, here, categories)

    def _move(self, move: OnloadOp | OffloadOp, here: set[Key], number: int, program: int) -> OpMemory:
        behind = number + isinstance(move, OffloadOp)
        columns, passing = self._columns.get(_Row(program, number), 0), self._passing(program, behind)
        parts = {"fields": columns, "communication": passing}
        return self._memory_of(move.id, program, columns + passing, "while it moves", here, parts)

    def _memory_of(
        self, op: str, program: int, workspace: int, at: str, here: set[Key], categories: dict[str, int]
    ) -> OpMemory:
        held = [h for h in self._states_of(program) if h.key in here]
        for term in (t for h in held for t in h.terms):
            categories[term.category] = categories.get(term.category, 0) + term.bytes
        return OpMemory(
            op=op,
            rank=self.plan.programs[program].first,
            workspace=workspace,
            resident=sum(h.bytes for h in held),
            at=at,
            categories={str(c): b for c, b in sorted(categories.items()) if b},
        )


def _key(move: OnloadOp | OffloadOp) -> Key:
    return move.model, move.state, move.staleness
