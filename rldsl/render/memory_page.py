"""Memory over the schedule as a drawing for the page of a plan: a column an op, its categories stacked, the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rldsl.compiler.plan import MemoryPlan, Plan
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
from rldsl.render.words import memory_words, state_words

_COLOURS = {
    "weights": "#4c78a8",
    "optimizer": "#72b7b2",
    "gradients": "#b279a2",
    "kv_cache": "#eeca3b",
    "activations": "#54a24b",
    "logits": "#e45756",
    "communication": "#f58518",
    "fields": "#9d755d",
    "reserve": "#bab0ac",
}
_COLUMN, _HEIGHT, _TOP, _LEFT, _FOOT = 26, 180, 18, 70, 190


def memory_section(plan: Plan) -> str:
    """The section of the page; empty without a plan of memory."""
    memory = plan.memory
    if memory is None:
        return ""
    words = (fit_words(plan), unplanned_words(plan, memory), moved_words(plan, memory))
    told = "".join(f"<p>{escape(each)}</p>" for each in words)
    charts: list[str] = []
    seen: set[str] = set()
    for program in plan.programs:
        levels = levels_of(plan, program)
        seen.update(c for level in levels for c in level.categories)
        charts.append(f"<h3>{escape(ranks_of(program, plan.world_size))}</h3>{_chart(levels, memory)}")
    legend = " ".join(_key(c) for c in CATEGORIES if c in seen)
    return f'<section id="memory"><h2>Memory</h2>{told}<p>{legend}</p>{"".join(charts)}{_states(plan)}</section>'


def _key(category: str) -> str:
    return f'<span style="color:{_COLOURS[category]}">&#9632;</span> {category.replace("_", " ")}'


def _chart(levels: Sequence[Level], memory: MemoryPlan) -> str:
    width, height = _LEFT + _COLUMN * len(levels) + 10, _TOP + _HEIGHT + _FOOT
    budget = f'<line x1="{_LEFT}" y1="{_TOP}" x2="{width}" y2="{_TOP}" stroke="#c0392b" stroke-dasharray="5 3"/>'
    ruler = f'<text x="0" y="{_TOP + 4}">{memory_words(memory.budget)}</text><text x="0" y="{_TOP + _HEIGHT}">0</text>'
    bars = "".join(bar for number, level in enumerate(levels) for bar in _column(number, level, memory))
    return f'<div class="scroll"><svg width="{width}" height="{height}">{ruler}{bars}{budget}</svg></div>'


def _column(number: int, level: Level, memory: MemoryPlan) -> Iterator[str]:
    """The stack of an op, with its figures where one points at it, and its name below, turned."""
    x, below = _LEFT + _COLUMN * number, 0
    figures = ", ".join(f"{c.replace('_', ' ')} {memory_words(b)}" for c, b in level.categories.items())
    yield f"<g><title>{escape(f'{level.label}: {memory_words(level.bytes)}, {level.at}; {figures}')}</title>"
    for category, count in level.categories.items():
        top, size = (_HEIGHT * part / memory.budget for part in (below + count, count))
        fill, width = _COLOURS.get(category, "#888"), _COLUMN - 4
        yield f'<rect x="{x}" y="{_TOP + _HEIGHT - top:.1f}" width="{width}" height="{size:.1f}" fill="{fill}"/>'
        below += count
    y = _TOP + _HEIGHT + 12
    name = escape(level.label if len(level.label) < 30 else f"{level.label[:28]}…")
    yield f'<text class="call" x="{x + 8}" y="{y}" transform="rotate(60 {x + 8} {y})">{name}</text></g>'


def _states(plan: Plan) -> str:
    rows = dict.fromkeys(
        (state_words(s), memory_words(s.bytes), group_words(plan, s.group), presence(program, s))
        for program in plan.programs
        for s in states_on(plan, program)
    )
    head = "".join(f"<th>{name}</th>" for name in ("state", "a rank", "on", "on the device"))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
