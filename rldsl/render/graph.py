"""The plan's dataflow graph, drawn in layers: boxes side by side wait for nothing from each other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rldsl.compiler.plan import Plan
from rldsl.render.blocks import BlockView, Part, parts_of
from rldsl.render.boxes import GAP, Box, drawn, layers_of_boxes, rows_of, width_of
from rldsl.render.lines import Spot, connected, stacked
from rldsl.render.nodes import edges_of

_FRAME = "dim"

Lines = Generator[Text, None, list[Spot]]
"""Lines of text; in the end, where lines leave them."""


class GraphView:
    """The graph of `plan`: a box a node (name, role, type, call, fields read and written), a row a layer.

    Lines lead from each layer to the next; a field read from further up is named in its reader's box. A frame holds
    what belongs to a block: a loop, once, or with `unrolled` each of its iterations; a validation. `only` are the
    ids of the nodes shown.
    """

    def __init__(self, plan: Plan, *, unrolled: bool = False, only: frozenset[str] | None = None) -> None:
        self._parts = parts_of(plan, unrolled=unrolled, only=only)
        self._edges = [(e.source, e.target) for e in edges_of(plan, unrolled=unrolled) if not e.again]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        above: list[Spot] = []
        for part in self._parts:
            if part.block is None:
                above = yield from self._layers(part, width, above)
            else:
                above = yield from self._framed(part, part.block, width, above)
        if not self._parts:
            yield Text("(no nodes)", style="dim")

    def _layers(self, part: Part, width: int, above: list[Spot]) -> Lines:
        """The boxes of a part."""
        for boxes in layers_of_boxes(part.layers, width):
            rows = list(rows_of(boxes, width))
            spots = [_spots(row, width) for row in rows]
            yield from connected(above, stacked(spots, 0), self._edges)
            for row in rows:
                yield from drawn(row, width_of(row, width), _left(row, width))
            above = stacked(spots, -1)
        return above

    def _framed(self, part: Part, block: BlockView, width: int, above: list[Spot]) -> Lines:
        """The boxes of a block in a frame, which is to its surroundings like one large box."""
        whole = Spot(frozenset(n.id for n in part.nodes), width // 2)
        if block.apart:
            yield Text()
        else:
            yield from connected(above, [whole], self._edges)
        room = width - 4
        title = block.title if len(block.title) <= room - 2 else block.id
        yield Text(f"┌╌ {title} ".ljust(width - 1, "╌") + "┐", style=_FRAME)
        for note in wrap(block.note, room, break_on_hyphens=False):
            yield _side(Text(note, style="dim"), room)
        for line in self._layers(part, room, []):
            yield _side(line, room)
        yield Text("└" + "╌" * (width - 2) + "┘", style=_FRAME)
        return [] if block.apart else [whole]


def _side(line: Text, room: int) -> Text:
    return Text.assemble(("╎ ", _FRAME), line, " " * (room - line.cell_len), (" ╎", _FRAME))


def _left(row: Sequence[Box], width: int) -> int:
    """The cells before a row that stands in the middle."""
    return (width - len(row) * (width_of(row, width) + GAP) + GAP) // 2


def _spots(row: Sequence[Box], width: int) -> list[Spot]:
    size = width_of(row, width)
    return [Spot(box.ids, _left(row, width) + i * (size + GAP) + size // 2) for i, box in enumerate(row)]
