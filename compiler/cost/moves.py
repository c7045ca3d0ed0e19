"""The moves of states that a choice of residency asks for, as ops and where they stand."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from rldsl.compiler.cost.footprints import Held, Key
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.hoisting import Coming, Hoisting
from rldsl.compiler.cost.lanes import Lane
from rldsl.compiler.cost.residency_gaps import Between, Use
from rldsl.compiler.cost.time_model import move_seconds
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, Tier, WaitOp

_BY = "overlap_moves"


@dataclass(frozen=True, slots=True)
class _Placed:
    """An onload, the op that needs the state, and the first op before which it may begin."""

    op: OnloadOp
    before: int
    earliest: int


class Moves:
    """The moves of the `chosen` gaps, by number of the op of `ops` that they stand before or after.

    `uses` are those of each state. What comes back comes from the nearest tier, of states in `below` from the last one.
    """

    def __init__(
        self,
        ops: Sequence[AnyOp],
        uses: Mapping[Key, Sequence[Use]],
        chosen: Iterable[tuple[Held, Between]],
        hardware: Hardware,
        below: Collection[Key] = (),
    ) -> None:
        self._ops, self._uses, self._hardware, self._below = ops, uses, hardware, below
        self._onloads: list[_Placed] = []
        self._begins: dict[int, int] = {}
        self._after: dict[int, list[OffloadOp]] = {}
        self.seconds: dict[str, float] = {}
        self.away: set[Key] = set()
        written: set[tuple[Key, int]] = set()
        for held, gap in sorted(chosen, key=_from_version):
            fresh = not gap.renewed and gap.version is not None and (held.key, gap.version) not in written
            if fresh and gap.version is not None:
                written.add((held.key, gap.version))
            self._add(held, gap, keep=fresh)
        self._place()

    def _add(self, held: Held, gap: Between, *, keep: bool) -> None:
        uses, (model, state, staleness) = self._uses[held.key], held.key
        first, last = uses[gap.begin].op, uses[gap.end].op
        name = f"{model}.{state}" + (f".{staleness}" if staleness else "")
        tier = self.tier(held.key)
        seconds = move_seconds(self._hardware, held.bytes, tier)
        off = OffloadOp(
            id=f"offload:{name}:{self._ops[first].id}",
            group=held.group,
            model=model,
            state=state,
            bytes=held.bytes,
            staleness=staleness,
            tier=tier,
            keep=keep,
        )
        self._after.setdefault(first, []).append(off)
        if keep:
            self.seconds[off.id] = seconds
        if last <= first:
            self.away.add(held.key)
        if not gap.renewed:
            on = OnloadOp(
                id=f"onload:{name}:{self._ops[last].id}",
                group=held.group,
                model=model,
                state=state,
                bytes=held.bytes,
                staleness=staleness,
                tier=tier,
            )
            # What left in the step before may come back from the step's begin on.
            self._onloads.append(_Placed(on, last, first + 1 if first < last else 0))
            self.seconds[on.id] = seconds

    def hoist(self, hoisting: Hoisting, programs: Mapping[str, tuple[int, ...]]) -> None:
        """Let onloads begin early where something hides them; `programs` are those of each group."""
        coming = [
            Coming(
                before=each.before,
                earliest=each.earliest,
                programs=programs[each.op.group],
                bytes=each.op.bytes,
                seconds=self.seconds[each.op.id],
            )
            for each in self._onloads
        ]
        self._begins = hoisting.places(coming)
        self._place()

    def cuts(self, group_programs: Mapping[str, tuple[int, ...]], programs: int) -> list[set[int]]:
        """By program the ops right before which something is written to a tier below."""
        found: list[set[int]] = [set() for _ in range(programs)]
        for number, moves in self._after.items():
            for move in moves:
                for program in group_programs[move.group] if move.keep else ():
                    found[program].add(number + 1)
        return found

    def _place(self) -> None:
        """Sort the onloads: those in the background begin in the order in which they are needed."""
        self._before: dict[int, list[AnyOp]] = {}
        waits: dict[int, list[AnyOp]] = {}
        begun: dict[int, list[AnyOp]] = {}
        for index, each in sorted(enumerate(self._onloads), key=lambda item: item[1].before):
            if index not in self._begins:
                self._before.setdefault(each.before, []).append(each.op)
                continue
            begun.setdefault(self._begins[index], []).append(replace(each.op, background=True))
            wait = WaitOp(id=_wait(each.op.id), group=each.op.group, begun=each.op.id, holds=(), by=_BY)
            waits.setdefault(each.before, []).append(wait)
        for found in (waits, begun):
            for number, ops in found.items():
                self._before.setdefault(number, []).extend(ops)

    def before(self, number: int) -> Sequence[AnyOp]:
        """What stands right before an op: what it cannot be without, then what begins beside it."""
        return self._before.get(number, ())

    def after(self, number: int) -> Sequence[OffloadOp]:
        """What leaves once an op has run."""
        return self._after.get(number, ())

    def tier(self, key: Key) -> Tier:
        """Where a state is kept while it is away."""
        return self._hardware.tiers[-1 if key in self._below else 0].tier

    def resident(self, key: Key) -> bool:
        """Whether a state is on the device when a step begins."""
        return key not in self.away

    def sequence(self, mine: Container[str], groups: Container[str]) -> Iterator[AnyOp]:
        """The ops of a class of ranks, by id, and the moves of the states of these groups among them."""
        for number, op in enumerate(self._ops):
            yield from (move for move in self.before(number) if move.group in groups)
            if op.id in mine:
                yield op
            yield from (move for move in self.after(number) if move.group in groups)

    def hidden(self, moved: Mapping[str, float]) -> dict[str, float]:
        """By move in the background the seconds of it that do not count, where all moves and waits add `moved`."""
        begun = (self._onloads[i].op.id for i in self._begins)
        return {name: self.seconds[name] - moved.get(_wait(name), 0.0) for name in begun}


def _wait(move: str) -> str:
    return f"wait:{move}"


def waited(ops: Iterable[AnyOp], seconds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """What moves, and waits for those in the background, add to a step of a class of ranks that runs these ops."""
    lane = Lane()
    for op in ops:
        before = lane.now
        lane.run(op, seconds.get(op.id, 0.0))
        if isinstance(op, OnloadOp | OffloadOp | WaitOp) and lane.now > before:
            yield op.id, lane.now - before


def _from_version(item: tuple[Held, Between]) -> tuple[str, bool, int]:
    """Gaps of a state from the use on that last changed it, so that the first one of a version writes it."""
    held, gap = item
    wrapped = gap.version is not None and gap.begin < gap.version
    return str(held.key), wrapped, gap.begin
