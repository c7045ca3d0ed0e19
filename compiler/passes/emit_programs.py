"""One linear program for each class of ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Program


@dataclass(frozen=True, kw_only=True)
class EmitPrograms:
    """Cut the ranks where a group ends; the ranks between two cuts run the same ops, stored once.

    Before: ops, of which `rollout` runs on the first 2 of 4 ranks.
    After:  a program for ranks 0-1 with `rollout`, and one for ranks 2-3 without.
    """

    name: ClassVar[str] = "emit_programs"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `programs`; groups that no op uses are gone."""
        used = {op.group for op in module.ops}
        groups = tuple(g for g in module.groups if g.name in used)
        sizes = {g.name: g.size for g in groups}
        cuts = sorted({0, *(s for s in sizes.values() if s is not None and s != module.world_size)})
        programs = []
        for first, last in zip(cuts, [*cuts[1:], module.world_size], strict=True):
            ops = tuple(op for op in module.ops if _runs(sizes[op.group], first))
            programs.append(Program(first=first, last=last, ops=ops))
        return replace(module, groups=groups, programs=tuple(programs))


def _runs(size: int | None, rank: int) -> bool:
    return size is None or rank < size
