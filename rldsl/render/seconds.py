"""What a step is predicted to take, op by op on each class of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.cost.plan_time import PlanTime
from rldsl.compiler.ops import AnyOp, OnloadOp
from rldsl.compiler.plan import Program
from rldsl.render.memory import label_of
from rldsl.render.ranks import ranks_of
from rldsl.render.words import duration, kind_of

_BAR = 24
_WIDE = 100


class SecondsView:
    """A table for each class of ranks: when an op begins, how long it takes, of what that is the sum."""

    def __init__(self, time: PlanTime) -> None:
        self._time = time
        self._step = time.step_seconds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plan, assumed = self._time.plan, self._time.assumed
        yield Text.assemble(
            (f"A step takes {duration(self._step)}", "bold"),
            (f" on {self._time.ranks} x {plan.cluster}, as predicted", ""),
        )
        part = "their limit" if assumed.filled == 1 else f"{assumed.filled:.0%} of their limit"
        rows = f"prompts of {self._time.prompt_tokens} tokens, responses of {part}"
        yield Text(f"{rows}; without functions, loading and saving", style="dim")
        for program in plan.programs:
            yield Text(f"\n{ranks_of(program, plan.world_size).capitalize()}", style="bold")
            yield self._table(program, wide=options.max_width >= _WIDE)

    def _table(self, program: Program, *, wide: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
        table.add_column("op", overflow="fold")
        for name in ("from", "takes", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        if wide:
            table.add_column("", no_wrap=True, width=_BAR)
        table.add_column("of which", overflow="fold", style="dim")
        for op, begin, lasting in self._rows(program):
            share = lasting / self._step if self._step else 0.0
            bar = [Text("█" * round(share * _BAR), style="cyan")] if wide else []
            table.add_row(_name(op), duration(begin), duration(lasting), _percent(share), *bar, self._parts(op))
        return table

    def _rows(self, program: Program) -> Iterator[tuple[AnyOp, float, float]]:
        times = {t.op: t for t in self._time.timeline() if t.first == program.first}
        for op in program.ops:
            if (lasting := times[op.id].end - times[op.id].begin) > 0:
                yield op, times[op.id].begin, lasting

    def _parts(self, op: AnyOp) -> str:
        seconds = self._time.seconds(op)
        every = f"every {op.guard.every} steps; " if op.guard and op.guard.every > 1 else ""
        parts = seconds.parts if seconds else ()
        return every + ", ".join(f"{name.replace('_', ' ')} {duration(s)}" for name, s in parts)


def seconds_json(time: PlanTime) -> dict[str, Any]:
    """The same for programs; seconds of each op in one step, and of one run with its parts."""
    ops = [(op, known) for op in time.plan.ops() if (known := time.seconds(op))]
    return {
        "step": time.step_seconds,
        "prompt_tokens": time.prompt_tokens,
        "filled": time.assumed.filled,
        "ops": {op.id: {"seconds": known.total, "parts": dict(known.parts)} for op, known in ops},
        "timeline": [{"first": t.first, "op": t.op, "begin": t.begin, "end": t.end} for t in time.timeline()],
    }


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _name(op: AnyOp) -> str:
    beside = " (beside)" if isinstance(op, OnloadOp) and op.background else ""
    return f"{op.node}: {kind_of(op)}" if op.node else f"{label_of(op)}{beside}"
