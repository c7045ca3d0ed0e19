"""Forwards over the same tokens with the same layers become one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar, NamedTuple

import msgspec

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import AnyOp, CollectOp, ComputeOp, Guard, InferHead, InferMethod, InferOp, Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import trunk_of

# With how many forwards of the same layers and tokens, which could not be fused themselves, one more is tried: in a
# chain, each waiting for the one before, all would be tried in vain.
_TRIED = 8


@dataclass(frozen=True, kw_only=True)
class FuseForwards:
    """Let one pass through the layers serve all forwards without gradients that need the same one.

    They read one field of tokens, with one model or models on one trunk, on the same ranks and in the same steps; masks
    and temperatures may differ. The one op stands where the first of them stood. What a later one waits for moves
    before it, if that only computes and does not wait for the first one itself; else the two stay apart.
    Before: `old: actor.logprob(tokens, response_mask)`, `reward: ...`, `baseline: critic.value(tokens, response_mask)`
    After:  `old+baseline: actor.logprob and critic.value(tokens, response_mask)`, `reward: ...`
    """

    name: ClassVar[str] = "fuse_forwards"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with fewer forwards."""
        alike: dict[_Pass, list[InferOp]] = {}
        for op in module.ops:
            # A score is of a token that is appended to each row: it has states of its own.
            if isinstance(op, InferOp) and op.method is not InferMethod.SCORE:
                key = _Pass(trunk_of(op.model, module.graph), op.tokens, op.group, op.guard)
                alike.setdefault(key, []).append(op)
        if all(len(ops) < 2 for ops in alike.values()):
            return module
        schedule = _Schedule(module)
        for ops in alike.values():
            apart: list[str] = []
            for op in ops:
                if not any(schedule.fuse(other, op.id) for other in apart[-_TRIED:]):
                    apart.append(op.id)
        return replace(module, ops=tuple(schedule.ops()))


class _Pass(NamedTuple):
    """Equal for forwards that run the same layers over the same rows, in the same steps."""

    trunk: str
    tokens: str
    group: str
    guard: Guard | None


class _Schedule:
    """The ops, by the ids that they had at first, and their places, tuples that are in order as the ops are.

    There is always room before a place (..., 1): at (..., 0, k, 1), for the k-th op that is moved at all.
    """

    def __init__(self, module: Module) -> None:
        self.op: dict[str, AnyOp] = {op.id: op for op in module.ops}
        self.place: dict[str, tuple[int, ...]] = {op.id: (i, 1) for i, op in enumerate(module.ops)}
        self.moves = count()
        self.within: dict[str, str] = {}
        writer = {name: op.id for op in module.ops for name in op.writes}
        self.before = {op.id: {writer[n] for n in op.reads} for op in module.ops}
        for edge in module.graph.edges:
            self.before[edge.target].add(edge.source)
        self.collects = [op for op in module.ops if isinstance(op, CollectOp)]

    def fuse(self, one: str, two: str) -> bool:
        """Let the first of two forwards do the work of both, if both can run where it stands."""
        first, other = sorted((self._home(one), self._home(two)), key=self._place)
        doing, done = self.op[first], self.op[other]
        assert isinstance(doing, InferOp) and isinstance(done, InferOp)
        needed = self._between(first, other)
        if needed is None or self._asks_anew(first, other):
            return False
        for name in sorted(needed, key=self._place):
            self.place[name] = (*self.place[first][:-1], 0, next(self.moves), 1)
        self.op[first] = _with(doing, done)
        self.before[first] |= self.before[other]
        self.within[other] = first
        del self.op[other]
        return True

    def ops(self) -> Iterator[AnyOp]:
        """All that is left, in order."""
        return (_reasoned(self.op[name]) for name in sorted(self.op, key=self._place))

    def _place(self, name: str) -> tuple[int, ...]:
        return self.place[name]

    def _home(self, name: str) -> str:
        """The op that does the work of `name` by now."""
        while name in self.within:
            name = self.within[name]
        return name

    def _between(self, first: str, other: str) -> set[str] | None:
        """What `other` waits for behind `first`; None where some of that must stay, or waits for `first` itself."""
        found: set[str] = set()
        waiting = [other]
        while waiting:
            for name in {self._home(n) for n in self.before[waiting.pop()]} - found:
                if self.place[name] < self.place[first]:
                    continue
                op = self.op[name]
                if name == first or not isinstance(op, (ComputeOp, InferOp)) or op.guard != self.op[other].guard:
                    return None
                found.add(name)
                waiting.append(name)
        return found

    def _asks_anew(self, first: str, other: str) -> bool:
        """Whether a collection for which both wait grows between the two: the later one may then not run at all."""
        guard = self.op[other].guard
        until = guard.until if guard is not None else None
        begin, end = self.place[first], self.place[other]
        return until is not None and any(c.into == until and begin < self.place[c.id] < end for c in self.collects)


def _with(op: InferOp, other: InferOp) -> InferOp:
    heads = (
        InferHead(
            node=part.node,
            model=part.model,
            method=part.method,
            response_mask=part.response_mask,
            output=part.output,
            temperature=part.temperature,
        )
        for part in other.parts
    )
    because = (*op.because, *other.because)
    return msgspec.structs.replace(op, id=f"{op.id}+{other.id}", also=(*op.also, *heads), because=because)


def _reasoned(op: AnyOp) -> AnyOp:
    if not isinstance(op, InferOp) or not op.also:
        return op
    *most, last = (f"`{part.node}`" for part in op.parts)
    why = f"{', '.join(most)} and {last} read the same tokens with the same layers, which run once for all of them"
    return msgspec.structs.replace(op, because=(*op.because, Reason(by=FuseForwards.name, why=why)))
