"""Boxes of the graph view, and boxes side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.text import Text

from rldsl.render.nodes import METRIC, OUTPUT, NodeView
from rldsl.render.scopes import leaf
from rldsl.render.style import role_style

GAP = 2
_NARROWEST = 24
_WIDEST = 48
_LABEL = 7


@dataclass(frozen=True, slots=True)
class Box:
    """What is drawn as one box: a node, or all metrics of a layer."""

    nodes: tuple[NodeView, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The nodes in it."""
        return frozenset(n.id for n in self.nodes)

    @property
    def title(self) -> str:
        """The node's name, or `metrics`."""
        first = self.nodes[0]
        if len(self.nodes) == 1:
            return first.title
        return f"{first.block}.metrics" if first.block else "metrics"

    @property
    def role(self) -> str:
        """That of its nodes."""
        return self.nodes[0].role

    @property
    def calls(self) -> tuple[str, ...]:
        """What is done, a line each; several metrics with their names."""
        if len(self.nodes) == 1:
            return (self.nodes[0].call,)
        return tuple(f"{leaf(n.label)} = {n.call}" for n in self.nodes)

    @property
    def need(self) -> int:
        """The least width at which no word is cut."""
        first = self.nodes[0]
        words = [w for text in (*self.calls, first.type) for w in text.split()]
        fields = [len(f) + 1 + _LABEL for f in (*first.reads, *first.writes)]
        return max(_NARROWEST, len(self.title) + 7, 4 + max([*map(len, words), *fields]))


def layers_of_boxes(layers: Iterable[Sequence[NodeView]], width: int) -> Iterator[Sequence[Box]]:
    """One box a node, but the metrics of a layer share one.

    Metrics and outputs for which a row has no room beside the steps stand at the end, so as not to part those.
    """
    late: list[Box] = []
    for layer in layers:
        metrics = tuple(n for n in layer if n.role == METRIC)
        sinks = [*(Box((n,)) for n in layer if n.role == OUTPUT), *([Box(metrics)] if metrics else [])]
        steps = [Box((n,)) for n in layer if n.role not in (METRIC, OUTPUT)]
        while steps and sinks and len(list(rows_of([*steps, *sinks], width))) > 1:
            late.append(sinks.pop())
        yield [*steps, *sinks]
    if late:
        yield late[::-1]


def rows_of(boxes: Sequence[Box], width: int) -> Iterator[Sequence[Box]]:
    """A layer too wide for the terminal goes on in further rows, evenly filled."""
    need = max(box.need for box in boxes)
    fits = max(1, (width + GAP) // (need + GAP))
    count = -(-len(boxes) // fits)
    size = -(-len(boxes) // count)
    for start in range(0, len(boxes), size):
        yield boxes[start : start + size]


def width_of(row: Sequence[Box], width: int) -> int:
    """The width of each box of a row: all of the room up to a limit, beyond it only as much as a name needs."""
    room = (width + GAP) // len(row) - GAP
    return min(room, max(_WIDEST, *(box.need for box in row)))


def drawn(row: Sequence[Box], size: int, left: int) -> Iterator[Text]:
    """The boxes of one row, `size` wide, `left` cells from the left, all as tall as the tallest."""
    boxes = [_lines(box, size) for box in row]
    tall = max(len(b) for b in boxes)
    even = [_stretched(box, tall) for box in boxes]
    for line in range(tall):
        parts = [box[line] for box in even]
        yield Text.assemble(" " * left, *(p for i, part in enumerate(parts) for p in ((" " * GAP if i else ""), part)))


def _lines(box: Box, width: int) -> list[Text]:
    style = role_style(box.role)
    inner = width - 4
    first = box.nodes[0]
    body = [Text(line, style="bold") for call in box.calls for line in wrap(call, inner, break_on_hyphens=False)]
    # The metrics of a layer stand outside blocks or in one, so one `when` would be that of all.
    body += [Text(_cut(text, inner), style="dim") for text in (first.type, first.when) if text]
    body += _fields("reads", first.reads, inner)
    body += _fields("writes", first.writes, inner)
    lines = [Text.assemble(("│ ", style), line, " " * (inner - line.cell_len), (" │", style)) for line in body]
    return [_top(box, width), *lines, Text("╰" + "─" * (width - 2) + "╯", style=style)]


def _top(box: Box, width: int) -> Text:
    """`╭─ rollout ──── ACTOR ─╮`; a role that does not fit beside the name is left to the colour."""
    style = role_style(box.role)
    name = _cut(box.title, width - 7)
    role = f" {box.role} " if len(name) + len(box.role) + 9 <= width else "─"
    rule = "─" * (width - len(name) - len(role) - 6)
    return Text.assemble(("╭─ ", style), (name, f"bold {style}"), (f" {rule}{role}─╮", style))


def _fields(label: str, names: Sequence[str], width: int) -> list[Text]:
    if not names:
        return []
    indent = " " * _LABEL
    lines = wrap(", ".join(names), width - len(indent), break_on_hyphens=False)
    heads = [f"{label:<{_LABEL}}", *[indent] * (len(lines) - 1)]
    return [Text.assemble((head, "dim"), line) for head, line in zip(heads, lines, strict=True)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _stretched(box: list[Text], height: int) -> list[Text]:
    width = box[0].cell_len
    style = box[-1].style
    blank = Text.assemble(("│", style), " " * (width - 2), ("│", style))
    return [*box[:-1], *[blank] * (height - len(box)), box[-1]]
