"""Where one rank stands: in which groups, at which coordinates, and which prompts lie on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.ops import LoadOp, ReshardOp, TakeOp
from rldsl.compiler.plan import Group, Plan
from rldsl.render.ranks import group_words

_SHOWN = 6


class RankView:
    """The groups of a rank, one a line: its coordinates there, and the prompts of each batch that it holds."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._plan = plan
        self._rank = rank

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1)
        for name, words in rank_words(self._plan, self._rank):
            table.add_row(name, Text(words))
        yield Text(f"Rank {self._rank}", style="bold")
        yield table


def rank_words(plan: Plan, rank: int) -> Iterator[tuple[str, str]]:
    """For each group with the rank its name, and where the rank is and what it holds."""
    if plan.world_size is None:
        yield "prompts", f"those whose number is {rank} modulo the number of ranks"
        return
    batches = sorted({op.batch for op in plan.ops() if isinstance(op, LoadOp | TakeOp)})
    holding = {op.group for op in plan.ops() if not isinstance(op, ReshardOp) and (op.reads or op.writes)}
    for group in plan.groups:
        if (place := group.coordinates(rank, plan.world_size)) is not None:
            axes = [f"{axis} {at} of {n}" for axis, at, n in _axes(group, place, plan.world_size)]
            dp = group.dp(plan.world_size)
            held = [f"prompts {held_words(range(place['dp'], b, dp))} of {b}" for b in batches if place["dp"] < b]
            words = [group_words(plan, group.name), ", ".join(axes), *(held if group.name in holding else ["no rows"])]
            yield group.name, "; ".join(filter(None, words))


def _axes(group: Group, place: dict[str, int], world: int) -> Iterator[tuple[str, int, int]]:
    sizes = {"dp": group.dp(world), "tp": group.tp, "cp": group.cp, "pp": group.pp}
    yield from ((axis, place[axis], size) for axis, size in sizes.items() if size > 1 or axis == "dp")


def held_words(prompts: Sequence[int]) -> str:
    """`0, 2, 4, ..., 14`."""
    if len(prompts) <= _SHOWN:
        return ", ".join(map(str, prompts))
    return f"{', '.join(map(str, prompts[: _SHOWN - 2]))}, ..., {prompts[-1]}"


def rank_json(plan: Plan, rank: int) -> dict[str, object]:
    """The rank's coordinates in each group with it."""
    world = plan.world_size
    groups = {} if world is None else {g.name: g.coordinates(rank, world) for g in plan.groups}
    return {"rank": rank, "groups": {name: place for name, place in groups.items() if place is not None}}


def phases_words(plan: Plan) -> Iterator[tuple[str, str]]:
    """`actor.train`: `fsdp on ranks 0 to 3`."""
    for phase in plan.phases:
        group = plan.group(phase.group)
        dp = f", dp = {group.dp(plan.world_size)}" if plan.world_size is not None else ""
        yield f"{phase.model}.{phase.phase}", f"{phase.engine} on {group_words(plan, phase.group)}{dp}"
