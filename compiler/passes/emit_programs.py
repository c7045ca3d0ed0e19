"""One linear program for each class of ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec import structs

from rldsl.compiler.ir import Module
from rldsl.compiler.ops import ReshardOp, SyncWeightsOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Group, Program


@dataclass(frozen=True, kw_only=True)
class EmitPrograms:
    """Cut the ranks where a group ends; the ranks between two cuts run the same ops, stored once.

    Before: ops, of which `rollout` runs on the first 2 of 4 ranks.
    After:  a program for ranks 0-1 with `rollout`, and one for ranks 2-3 without.
    """

    name: ClassVar[str] = "emit_programs"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `programs`; groups that no op uses are gone."""
        used = {op.group for op in module.ops} | {p.group for p in module.phases}
        used |= {
            end for op in module.ops if isinstance(op, (ReshardOp, SyncWeightsOp)) for end in (op.source, op.target)
        }
        groups = {g.name: g for g in module.groups if g.name in used}
        ends = {end for g in groups.values() for span in g.ranks for end in span}
        cuts = sorted({0, *ends} - {module.world_size})
        programs: list[Program] = []
        for first, last in zip(cuts, [*cuts[1:], module.world_size], strict=True):
            here = {name for name, g in groups.items() if _runs(g, first)}
            ops = tuple(op for op in module.ops if op.group in here)
            if programs and programs[-1].ops == ops:
                programs[-1] = structs.replace(programs[-1], last=last)
            else:
                programs.append(Program(first=first, last=last, ops=ops))
        return replace(module, groups=tuple(groups.values()), programs=tuple(programs))


def _runs(group: Group, rank: int) -> bool:
    return not group.ranks or any(first <= rank < last for first, last in group.ranks)
