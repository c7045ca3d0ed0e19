"""Memory over the schedule: a line an op, a letter a category, as wide as the budget of a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.plan import MemoryPlan, Plan, Program
from rldsl.render.memory import (
    CATEGORIES,
    Level,
    fit_words,
    levels_of,
    moved_words,
    presence,
    states_on,
    unplanned_words,
)
from rldsl.render.ranks import group_words, ranks_of
from rldsl.render.style import quoted
from rldsl.render.words import memory_words, state_words

_STYLES = {
    "weights": ("W", "black on blue"),
    "optimizer": ("O", "black on cyan"),
    "gradients": ("G", "black on magenta"),
    "kv_cache": ("K", "black on yellow"),
    "activations": ("A", "black on green"),
    "logits": ("L", "black on red"),
    "communication": ("C", "black on white"),
    "fields": ("F", "black on bright_yellow"),
    "reserve": ("R", "black on bright_black"),
}
_LABEL, _SIZE, _AT = 30, 9, 34
_WIDE = 110


class MemoryView:
    """For each class of ranks how full it is in each op, then its states and when they are on the device."""

    def __init__(self, plan: Plan, memory: MemoryPlan, programs: Sequence[Program] | None = None) -> None:
        self._plan = plan
        self._memory = memory
        self._programs = programs or plan.programs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self._plan.algorithm}: {fit_words(self._plan)}", style="bold")
        yield Text(unplanned_words(self._plan, self._memory), style="dim")
        yield Text(moved_words(self._plan, self._memory))
        seen: set[str] = set()
        for program in self._programs:
            levels = levels_of(self._plan, program)
            seen.update(c for level in levels for c in level.categories)
            yield Text()
            yield from self._chart(program, levels, options.max_width)
        legend = (f"{_STYLES[c][0]} {c.replace('_', ' ')}" for c in CATEGORIES if c in seen)
        yield Text("\n" + "  ".join(legend) + "  | budget", style="dim")
        yield Text("\nStates between ops, bytes a rank", style="bold")
        yield self._states()
        yield from (quoted(f"assumed of {note}", "dim") for note in self._memory.assumed)

    def _chart(self, program: Program, levels: Sequence[Level], width: int) -> Iterator[Text]:
        """The ruler, then a line an op."""
        wide = width >= _WIDE
        label = min(_LABEL, width // 3, max((len(level.label) for level in levels), default=0) + 1)
        room = max(8, width - label - _SIZE - 3 - (_AT if wide else 0))
        title = ranks_of(program, self._plan.world_size)
        budget = memory_words(self._memory.budget)
        yield Text(f"{title:<{label + _SIZE + 1}}0{budget:>{room}}", style="bold")
        for level in levels:
            name = level.label if len(level.label) < label else f"{level.label[: label - 2]}…"
            peak = level.bytes == self._memory.peak
            line = Text(f"{name:<{label}}{memory_words(level.bytes):>{_SIZE}} ", style="bold" if peak else "")
            line.append(self._bar(level, room)).append("|", style="dim")
            yield line.append(f" {level.at}"[:_AT], style="dim") if wide else line

    def _bar(self, level: Level, room: int) -> Text:
        """As many letters of each category as its share of the budget, rounded so that the whole is right."""
        bar, below = Text(), 0
        for category, count in level.categories.items():
            letter, style = _STYLES.get(category, ("?", ""))
            end = round((below + count) / self._memory.budget * room)
            bar.append(letter * (min(end, room) - len(bar)), style=style)
            below += count
        return bar.append("·" * (room - len(bar)), style="dim")

    def _states(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1)
        shown: dict[tuple[str, int, str], str] = {}
        for program in self._programs:
            for state in states_on(self._plan, program):
                where = f"on {group_words(self._plan, state.group)}: {presence(program, state)}"
                shown.setdefault((state_words(state), state.bytes, where), "")
        for name, count, where in shown:
            table.add_row(name, memory_words(count), where)
        return table
