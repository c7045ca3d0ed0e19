"""Functions that work on the host run beside the work of models."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, NamedTuple

import msgspec

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import (
    AnyOp,
    CollectOp,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    Reason,
    ReshardOp,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
    parts,
)
from rldsl.compiler.passes.base import Context
from rldsl.compiler.ranks import meet
from rldsl.compiler.threads import wants_main_thread
from rldsl.types import DType

_OF_MODELS = (InferOp, GenerateOp, ExtendOp, TrainOp, SyncWeightsOp)
_LISTED = 3  # ops that a reason names
_FIELD, _NODE, _READ, _MOVE, _COLLECT = "field", "node", "read", "move", "collect"


@dataclass(frozen=True, kw_only=True)
class OverlapComputes:
    """Begin a function in the background, and wait for it right before the first op that needs what it returns.

    It begins before the first op of a model that it can run beside: as early as what it reads is there. Where it could
    run beside none, it stays as it is, and so does a function of tensors alone that we ship: that is work of the
    device. Functions keep their order, and two of the user's never run at once. One that sums over ranks, or that
    Python lets run on the main thread only, is left where it is.
    Before: `infer old`, `compute reward`, `infer baseline`, `compute shaping`, which reads the reward
    After:  `compute reward` in the background, `infer old`, `infer baseline`, `wait for reward`, `compute shaping`
    """

    name: ClassVar[str] = "overlap_computes"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with waits."""
        able = [op for op in module.ops if isinstance(op, ComputeOp) and _may(op, module)]
        called = {op.function for op in able}  # a function's file is looked at once, however often it is called
        bound = {f for f in called if wants_main_thread(module.signatures[f], context.source_dir)}
        chosen = {op.id for op in able if op.function not in bound}
        places = _Places(module)
        while True:
            found = _Sweep(module, places, chosen).stretches()
            if found.keys() == chosen:
                return replace(module, ops=_placed(module.ops, found)) if found else module
            # One that stays may keep others from running beside it.
            chosen = set(found)


def _may(op: ComputeOp, module: Module) -> bool:
    """Whether the op works on the host and by itself."""
    signature = module.signatures[op.function]
    texts = any(module.fields[name].type.dtype is DType.TEXT for name in op.reads)
    on_host = signature.file is not None or texts
    return on_host and not op.collective


def _of_models(op: AnyOp) -> bool:
    """Whether the op is work of models; a transfer in the background only begins where it stands."""
    return isinstance(op, _OF_MODELS) and not (isinstance(op, SyncWeightsOp) and op.background)


class _Stretch(NamedTuple):
    """A function runs from before the op at `start` to before that at `end`, beside ops of models, `beside` first."""

    start: int
    end: int
    beside: tuple[str, ...]


class _Places:
    """Where ops stand: those that read each field, move it, are of each node, add to each collection, run a model.

    `before` and `after` are the nodes that each node waits for, and those that wait for it.
    """

    def __init__(self, module: Module) -> None:
        self.models = [i for i, op in enumerate(module.ops) if _of_models(op)]
        self.before: dict[str, list[str]] = {}
        self.after: dict[str, list[str]] = {}
        for edge in module.graph.edges:
            self.before.setdefault(edge.target, []).append(edge.source)
            self.after.setdefault(edge.source, []).append(edge.target)
        self._found: dict[tuple[str, str], list[int]] = {}
        for place, op in enumerate(module.ops):
            moved = op.fields if isinstance(op, ReshardOp) else ()
            into = (op.into,) if isinstance(op, CollectOp) else ()
            touched = (*((_READ, n) for n in op.reads), *((_MOVE, n) for n in moved), *((_COLLECT, n) for n in into))
            for thing in (*touched, *_nodes(op)):
                self._found.setdefault(thing, []).append(place)

    def of(self, what: str, name: str) -> Sequence[int]:
        """All of one kind, in order."""
        return self._found.get((what, name), [])

    def behind(self, place: int, what: str, names: Iterable[str]) -> Iterator[int]:
        """For each name the first such place behind `place`, where there is one."""
        for name in names:
            found = self.of(what, name)
            yield from found[(at := bisect_right(found, place)) : at + 1]


class _Sweep:
    """One walk over the ops, in which the computes of `chosen` run in the background. Places are those before it."""

    def __init__(self, module: Module, places: _Places, chosen: set[str]) -> None:
        self._ops, self._chosen, self._places = module.ops, chosen, places
        self._own = {name for name, signature in module.signatures.items() if signature.file is not None}
        self._calls = [i for i, op in enumerate(module.ops) if op.id not in chosen and self._is_own(op)]
        self._groups = {g.name: g for g in module.groups}
        # What has been passed: from which place on fields, nodes and collections are done.
        self._done: dict[tuple[str, str], int] = {}
        self._begun = 0

    def stretches(self) -> dict[str, _Stretch]:
        """Where each of the chosen runs; not those that would run beside no op of a model."""
        found: dict[str, _Stretch] = {}
        for place, op in enumerate(self._ops):
            there = place + 1
            if isinstance(op, ComputeOp) and op.id in self._chosen:
                stretch = self._stretch(place, op)
                if stretch is None:
                    continue
                found[op.id] = stretch
                self._begun, there = stretch.start, stretch.end
            self._done.update(dict.fromkeys((*_fields(op.writes), *_nodes(op)), there))
        return found

    def _is_own(self, op: AnyOp) -> bool:
        """Whether the op calls a function of the user's."""
        called = op.function if isinstance(op, ComputeOp) else op.loss if isinstance(op, TrainOp) else None
        return called in self._own

    def _stretch(self, place: int, op: ComputeOp) -> _Stretch | None:
        first, end = self._first(place, op), self._end(place, op)
        between = range(bisect_left(self._places.models, first), bisect_left(self._places.models, end))
        models = (self._places.models[i] for i in between)
        beside = list(islice((i for i in models if self._together(self._ops[i], op)), _LISTED + 1))
        if not beside:
            return None
        return _Stretch(min(place, beside[0]), end, tuple(self._ops[i].id for i in beside))

    def _together(self, model: AnyOp, op: ComputeOp) -> bool:
        """Whether the op of a model runs whenever `op` does, on ranks that have both."""
        if model.guard not in (None, op.guard):
            return False
        return meet(self._groups[model.group], self._groups[op.group])

    def _first(self, place: int, op: ComputeOp) -> int:
        """The first place at which it can begin: functions keep their order, and a guard is asked as late as before."""
        before = (*_fields(op.reads), *((_NODE, node) for node in self._places.before.get(op.node or "", ())))
        at = bisect_left(self._calls, place)
        called = self._calls[at - 1 : at] if at and self._is_own(op) else []
        asked = [i for i in self._collects(op) if i < place]
        return max(self._begun, *(self._done.get(thing, 0) for thing in before), *(i + 1 for i in (*called, *asked)))

    def _end(self, place: int, op: ComputeOp) -> int:
        """The last place at which it must have ended."""
        at = bisect_left(self._calls, place)
        ends = (
            *self._places.behind(place, _READ, op.writes),
            *self._places.behind(place, _MOVE, op.reads),
            *self._places.behind(place, _NODE, self._places.after.get(op.node or "", ())),
            *(self._calls[at : at + 1] if self._is_own(op) else ()),
            *(i for i in self._collects(op) if i > place),
        )
        return min(ends, default=len(self._ops))

    def _collects(self, op: ComputeOp) -> Sequence[int]:
        """Where that is added to which the op's guard asks about."""
        return self._places.of(_COLLECT, op.guard.until or "") if op.guard is not None else ()


def _fields(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((_FIELD, name) for name in names)


def _nodes(op: AnyOp) -> Iterator[tuple[str, str]]:
    """The nodes whose work the op does; a transfer, or a wait for one, has but the name of its rollout."""
    if not isinstance(op, SyncWeightsOp | WaitOp):
        yield from ((_NODE, part.node) for part in parts((op,)) if part.node is not None)


def _placed(ops: Sequence[AnyOp], found: Mapping[str, _Stretch]) -> tuple[AnyOp, ...]:
    """The ops in their new order: at one place waits come first, then what begins there, then what was there."""
    made: list[tuple[tuple[int, int], AnyOp]] = []
    for place, op in enumerate(ops):
        if not isinstance(op, ComputeOp) or op.id not in found:
            made.append(((place, 2), op))
            continue
        start, end, beside = found[op.id]
        reader = ops[end] if end < len(ops) else None
        made.append(((start, 1), _begun(op, beside, reader)))
        made.append(((end, 0), _wait(op)))
    return tuple(op for _, op in sorted(made, key=lambda each: each[0]))


def _begun(op: ComputeOp, beside: Sequence[str], reader: AnyOp | None) -> ComputeOp:
    until = "the end of the step" if reader is None else f"`{reader.id}`"
    names = ", ".join(f"`{name}`" for name in beside[:_LISTED]) + (" and more" if len(beside) > _LISTED else "")
    why = f"runs on the host beside {names}: not needed before {until}"
    reason = Reason(by=OverlapComputes.name, why=why)
    return msgspec.structs.replace(op, background=True, because=(*op.because, reason))


def _wait(op: ComputeOp) -> WaitOp:
    holds = tuple(dict.fromkeys(op.reads))
    return WaitOp(id=f"wait:{op.id}", node=op.node, group=op.group, guard=op.guard, begun=op.id, holds=holds)
