"""Edges between different layouts become all-to-alls; edges between equal ones cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import AnyOp, ReshardOp


@dataclass(frozen=True, kw_only=True)
class LowerReshards:
    """Before each op, move the fields it reads that lie in another layout; each move once.

    Before: `rollout` on 2 ranks writes `tokens`, `update` on 4 ranks reads it.
    After:  `reshard tokens: dp2 -> world` between them; nothing where both run on the same ranks.
    """

    name: ClassVar[str] = "lower_reshards"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with reshards between them."""
        sizes = {g.name: g.size for g in module.groups}
        holds: dict[str, set[str]] = {}
        ops: list[AnyOp] = []
        for op in module.ops:
            missing: dict[str, list[str]] = {}
            for name in dict.fromkeys(op.reads):
                if op.group not in holds[name]:
                    missing.setdefault(min(holds[name]), []).append(name)
            for source, fields in sorted(missing.items()):
                ops.append(_reshard(tuple(fields), source, op.group, sizes, op.id))
                for name in fields:
                    # A move takes the rows along: the old layout no longer has them.
                    holds[name] = {op.group}
            ops.append(op)
            holds.update({name: {op.group} for name in op.writes})
        return replace(module, ops=tuple(ops))


def _reshard(fields: tuple[str, ...], source: str, target: str, sizes: dict[str, int | None], before: str) -> ReshardOp:
    """Groups are the first ranks, so the larger contains the smaller: its ranks enter the all-to-all."""
    size_a, size_b = sizes[source], sizes[target]
    larger = source if size_a is None or (size_b is not None and size_a >= size_b) else target
    why = f"`{before}` runs on `{target}`, its rows lie on `{source}`"
    return ReshardOp(
        id=f"reshard:{before}:{source}",
        group=larger,
        fields=fields,
        source=source,
        target=target,
        because=(why,),
    )
