"""Collections are filled, then taken once; and those who wait for one to be full all know when it is."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.ops import CollectOp, FreeOp, LoadOp, TakeOp
from rldsl.compiler.verify.facts import Facts, ranks_of


def collections(facts: Facts) -> Iterator[str]:
    """Walks the ops once; all that touch a collection are collective, so their order is that of every rank."""
    filled: dict[str, CollectOp] = {}
    taken: set[str] = set()
    for op in facts.ops:
        until = op.guard.until if op.guard is not None else None
        if until is not None and not isinstance(op, FreeOp):
            if until not in filled or until in taken:
                when = "was taken already" if until in taken else "nothing has begun to fill"
                yield f"`{op.id}` waits for the collection `{until}`, which {when}"
            elif not facts.layouts[filled[until].group].covers(facts.layouts[op.group]):
                yield f"`{op.id}` waits for `{until}`, and ranks of `{op.group}` do not know when that is full"
        if isinstance(op, CollectOp):
            first = filled.setdefault(op.into, op)
            if op.into in taken:
                yield f"`{op.id}` adds to the collection `{op.into}` after it was taken"
            yield from _collect(op, first, facts)
        if isinstance(op, TakeOp):
            yield from _take(op, filled.get(op.collection), op.collection in taken)
            taken.add(op.collection)
    for name in filled.keys() - taken:
        yield f"nothing takes the collection `{name}`"
    yield from _turns(facts)


def _turns(facts: Facts) -> Iterator[str]:
    """On every rank the loads of a stream come in the order of rounds, and a guard is asked after as many rounds."""
    asked: dict[str, int] = {}
    for program in facts.plan.programs:
        where = f" ({ranks_of(program)})"
        loaded: dict[str, int] = {}
        rounds: dict[str, int] = {}
        for op in program.ops:
            until = op.guard.until if op.guard is not None else None
            if until is not None and not isinstance(op, FreeOp):
                done = rounds.get(until, 0)
                if asked.setdefault(op.id, done) != done:
                    yield f"`{op.id}` asks whether `{until}` is full earlier on some ranks than on others{where}"
                if isinstance(op, LoadOp) and op.round != done:
                    yield f"`{op.id}` is for round {op.round} of `{until}`, and runs after {done}{where}"
            if isinstance(op, LoadOp):
                turn = loaded[op.stream] = loaded.get(op.stream, -1) + 1
                if op.round != turn:
                    yield f"`{op.id}` is for round {op.round} of its stream, and takes what is for round {turn}{where}"
            if isinstance(op, CollectOp):
                rounds[op.into] = rounds.get(op.into, 0) + 1


def _collect(op: CollectOp, first: CollectOp, facts: Facts) -> Iterator[str]:
    if first.batch != op.batch or first.group != op.group or list(first.fields.values()) != list(op.fields.values()):
        yield f"`{op.id}` adds to `{op.into}` other fields, or on other terms, than `{first.id}` does"
    writer = facts.writer.get(op.where)
    if writer is not None and writer.guard != op.guard:
        yield f"`{op.id}` does not run whenever `{op.where}` is there: prompts would be lost"


def _take(op: TakeOp, filled: CollectOp | None, taken: bool) -> Iterator[str]:
    if filled is None or taken:
        yield f"`{op.id}` takes the collection `{op.collection}`, which is not there"
        return
    if filled.batch != op.batch or filled.group != op.group or sorted(filled.fields.values()) != sorted(op.outputs):
        yield f"`{op.id}` takes other fields, or on other terms, than `{op.collection}` holds"
    if op.guard is not None:
        yield f"`{op.id}` takes only now and then what is collected in every step"
