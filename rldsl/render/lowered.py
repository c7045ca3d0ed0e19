"""To which ops a node was lowered on each class of ranks, and for which nodes the ops without one are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from rldsl.compiler.ops import AnyOp, FreeOp, LoadOp, OnloadOp, ReshardOp, SaveOp, SyncWeightsOp, WaitOp
from rldsl.compiler.plan import Program
from rldsl.render.facts import Facts
from rldsl.render.nodes import node_ids
from rldsl.render.ranks import ranks_of
from rldsl.render.scopes import leaf


class Lowered:
    """The ops of a plan, by what they are there for."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def lines(self, ops: Iterable[AnyOp]) -> Iterator[str]:
        """For each class of ranks: ``ranks 0 to 1: op 1 `reshard:old:dp2` by lower_reshards, ...``."""
        wanted = {each for op in ops for each in (op.id, *self._helpers.get(op.id, ()))}
        plan = self._facts.plan
        for program, numbers, frees in zip(plan.programs, self._numbers, self._frees_after, strict=True):
            all_of = wanted | {free for each in wanted for free in frees.get(each, ())}
            told = [_told(program, number) for number in sorted(numbers[each] for each in all_of if each in numbers)]
            yield f"{ranks_of(program, plan.world_size)}: {', '.join(told) or 'nothing'}"

    @cached_property
    def _numbers(self) -> list[dict[str, int]]:
        return [{op.id: i for i, op in enumerate(p.ops)} for p in self._facts.plan.programs]

    @cached_property
    def _helpers(self) -> dict[str, list[str]]:
        """By op the moves, transfers, waits and saves that are there for it."""
        found: dict[str, list[str]] = {}
        for op in self._facts.ops:
            for served in self.served(op):
                found.setdefault(served.id, []).append(op.id)
        return found

    @cached_property
    def _by_id(self) -> dict[str, AnyOp]:
        return {op.id: op for op in self._facts.ops}

    @cached_property
    def _frees_after(self) -> list[dict[str, list[str]]]:
        """By program and op the frees right behind it."""
        made = []
        for program in self._facts.plan.programs:
            after: dict[str, list[str]] = {}
            before = ""
            for op in program.ops:
                if isinstance(op, FreeOp):
                    after.setdefault(before, []).append(op.id)
                else:
                    before = op.id
            made.append(after)
        return made

    @cached_property
    def _moved_for(self) -> dict[str, list[tuple[AnyOp, str]]]:
        """By move the ops that read what it brought, before another moves it on, and the fields."""
        found: dict[str, list[tuple[AnyOp, str]]] = {}
        for op in self._facts.ops:
            if not isinstance(op, ReshardOp | FreeOp | WaitOp):
                for field in dict.fromkeys(op.reads):
                    for move in self._facts.moves(field, op):
                        found.setdefault(move.id, []).append((op, field))
        return found

    def served(self, op: AnyOp) -> tuple[AnyOp, ...]:
        """The nodes' ops for which an op without a node of its own is there; frees are there for none."""
        match op:
            case ReshardOp():
                return tuple({reader.id: reader for reader, _ in self._moved_for.get(op.id, ())}.values())
            case SyncWeightsOp():
                return self._facts.rollouts(op)
            case SaveOp():
                return tuple(o for o in self._facts.trainings if o.model == op.model)
            case WaitOp():
                begun = self._by_id.get(op.begun)
                return () if begun is None else self.served(begun) or (begun,)
            case _:
                return ()

    def origins(self, op: AnyOp) -> tuple[AnyOp, ...]:
        """The nodes' ops to whose statements the op goes back: those served, or the last ones to need what is freed."""
        return tuple(o for f in op.fields for o in self._last(f)) if isinstance(op, FreeOp) else self.served(op)

    def purpose(self, op: AnyOp) -> Iterator[str]:
        """What an op is there for, a line each."""
        match op:
            case ReshardOp():
                for reader, field in self._moved_for.get(op.id, ()):
                    yield f"`{leaf(field)}` of {self._writer(field)} for {_named((reader,))}"
            case SyncWeightsOp():
                own = self._facts.trunk(op.model)
                trained = [o for o in self._facts.trainings if self._facts.trunk(o.model) == own]
                yield f"what {_named(trained)} trained, for {_named(self.served(op))}"
            case FreeOp():
                for field in op.fields:
                    yield f"`{leaf(field)}`, which {_named(self._last(field))} needs last"
            case WaitOp() if isinstance(begun := self._by_id.get(op.begun), SyncWeightsOp):
                yield from self.purpose(begun)
            case LoadOp():
                readers = {r.id: r for f in op.columns for r in self._facts.readers.get(f, ())}
                yield f"rows for {_named(readers.values())}"
            case _:
                for served in self.served(op):
                    yield f"what {_named((served,))} {'brings back' if isinstance(served, OnloadOp) else 'made'}"

    def _writer(self, field: str) -> str:
        writer = self._facts.writer.get(field)
        return _named((writer,) if writer else ())

    def _last(self, field: str) -> tuple[AnyOp, ...]:
        writer = self._facts.writer.get(field)
        return self._facts.readers.get(field, ())[-1:] or ((writer,) if writer else ())


def _told(program: Program, number: int) -> str:
    op = program.ops[number]
    return f"op {number} `{op.id}` by {op.by}"


def _named(ops: Iterable[AnyOp]) -> str:
    names = dict.fromkeys(name for op in ops for name in node_ids(op) or (op.id,))
    return ", ".join(f"`{n}`" for n in names) or "nothing"
