"""The gaps between the uses of a state in a step that repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Use:
    """The op of this number uses a state; it `changes` it, or `renews` it whatever it was."""

    op: int
    changes: bool = False
    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The gap from the use numbered `begin` to the next one, `end`, of the next step behind the last.

    `idle` are the ops that run without the state. `renewed`: the next use does not look at what was there, so nothing
    need be brought back; it is written over in place. `version` numbers the use that last changed it, None where none
    does: gaps of one version share one writing back.
    """

    begin: int
    end: int
    idle: frozenset[int]
    renewed: bool
    version: int | None


def gaps_of(uses: Sequence[Use], ops: int) -> tuple[Between, ...]:
    """The gaps between `uses`, which rise, in a step of so many ops; none where no op lies between two."""
    changing = [i for i, use in enumerate(uses) if use.changes or use.renews]
    found = []
    for begin, use in enumerate(uses):
        end = (begin + 1) % len(uses)
        renewed = uses[end].renews
        last = uses[end].op if end > begin else uses[end].op + ops
        idle = {i % ops for i in range(use.op + 1, last)}
        if idle:
            version = max((c for c in changing if c <= begin), default=changing[-1] if changing else None)
            between = Between(begin=begin, end=end, idle=frozenset(idle), renewed=renewed, version=version)
            found.append(between)
    return tuple(found)
