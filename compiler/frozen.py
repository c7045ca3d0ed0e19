"""What graphs have most of: parts that never change, made and copied at little cost."""

from __future__ import annotations

import msgspec

_APART = frozenset({"span", "after_spans", "text", "written"})


class Frozen(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A part of a graph. Two are equal if they mean the same: spans and what was written take no part in that.

    Every pass makes new ones of all of them; as dataclasses they took ten times as long to make, and twice the memory.
    """

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._compared())

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._compared()))

    def _compared(self) -> list[str]:
        return [name for name in self.__struct_fields__ if name not in _APART]
