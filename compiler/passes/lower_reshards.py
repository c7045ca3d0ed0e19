"""Edges between different layouts become all-to-alls; edges between equal ones cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import AnyOp, Guard, Reason, ReshardOp


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
        batches = {name: module.batches[info.prompts] for name, info in module.fields.items()}
        # A move happens whenever there is something to move, whoever reads it.
        guards = {name: op.guard for op in module.ops for name in op.writes}
        holds: dict[str, set[str]] = {}
        ops: list[AnyOp] = []
        for op in module.ops:
            missing: dict[tuple[str, int, Guard | None], list[str]] = {}
            for name in dict.fromkeys(op.reads):
                if op.group not in holds[name]:
                    missing.setdefault((min(holds[name]), batches[name], guards[name]), []).append(name)
            for number, ((source, batch, guard), fields) in enumerate(missing.items()):
                ops.append(_reshard(tuple(fields), source, op, sizes, number, batch, guard))
                for name in fields:
                    # A move takes the rows along: the old layout no longer has them.
                    holds[name] = {op.group}
            ops.append(op)
            holds.update({name: {op.group} for name in op.writes})
        return replace(module, ops=tuple(ops))


def _reshard(
    fields: tuple[str, ...],
    source: str,
    reader: AnyOp,
    sizes: dict[str, int | None],
    number: int,
    batch: int,
    guard: Guard | None,
) -> ReshardOp:
    """Groups are the first ranks, so the larger contains the smaller: its ranks enter the all-to-all."""
    target = reader.group
    size_a, size_b = sizes[source], sizes[target]
    larger = source if size_a is None or (size_b is not None and size_a >= size_b) else target
    why = f"`{reader.id}` runs on `{target}`, its rows lie on `{source}`"
    return ReshardOp(
        id=f"reshard:{reader.id}:{source}" + (f":{number + 1}" if number else ""),
        group=larger,
        guard=guard,
        fields=fields,
        source=source,
        target=target,
        batch=batch,
        because=(Reason(by=LowerReshards.name, why=why),),
    )
