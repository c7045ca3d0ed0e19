"""Where the graph's boxes stand in a picture, in pixels: layers from top to bottom, blocks in frames."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rldsl.render.blocks import Part
from rldsl.render.nodes import Edge, NodeView

HEIGHT = 44
_LETTER = 7
_LEAST = 120
_ACROSS = 22
_DOWN = 34
_FRAME = 18
_TITLE = 20
_WIDEST = 1200
_AGAIN = 40
_LONG = 8


@dataclass(frozen=True, slots=True)
class Spot:
    """A box: its left upper corner and its width; all are `HEIGHT` high."""

    node: NodeView
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        """Where lines meet it."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A block around its boxes."""

    title: str
    note: str
    x: float
    y: float
    width: float
    height: float


@dataclass(slots=True)
class Picture:
    """Boxes by node and by row from the top, frames, and how large all is."""

    spots: dict[str, Spot] = field(default_factory=dict)
    rows: list[list[Spot]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    width: float = 0
    height: float = 2

    def rows_between(self, above: Spot, below: Spot) -> list[list[Spot]]:
        """The rows that lie between the boxes, from the top."""
        first = bisect_right(self.rows, above.y, key=lambda row: row[0].y)
        return self.rows[first : bisect_left(self.rows, below.y, key=lambda row: row[0].y)]


def laid_out(parts: Sequence[Part], edges: Sequence[Edge]) -> Picture:
    """Boxes of one layer side by side, each near those that it reads from."""
    picture = Picture()
    sources: dict[str, list[str]] = {}
    for edge in edges:
        if not edge.again:
            sources.setdefault(edge.target, []).append(edge.source)
    rows = [row for part in parts for layer in part.layers for row in _rows(layer)]
    texts = [_text(part) for part in parts]
    picture.width = max((*map(_span, rows), *texts), default=0) + 2 * _FRAME + 2 * _AGAIN
    for part in parts:
        _place(part, picture, sources)
    return picture


def width_of(node: NodeView) -> float:
    """Wide enough for the name and what it does."""
    return max(_LEAST, _LETTER * max(len(node.title), len(node.call)) + 20)


def path(edge: Edge, picture: Picture) -> str:
    """The line of an edge as SVG: down between the boxes, past all of them on the left where it passes many rows.

    To the next round it goes up again, past the right of the boxes.
    """
    a, b = picture.spots[edge.source], picture.spots[edge.target]
    if edge.again:
        ax, bx, out = a.x + a.width, b.x + b.width, max(a.x + a.width, b.x + b.width) + _AGAIN
        ay, by = a.y + HEIGHT * 0.7, b.y + HEIGHT * 0.3
        return f"M{ax:g} {ay:g} C{out:g} {ay:g} {out:g} {by:g} {bx:g} {by:g}"
    between = picture.rows_between(a, b)
    if len(between) > _LONG:
        # Each bend would cost as much as a box, and no eye follows them all.
        side, up, down = _ACROSS / 2, a.y + HEIGHT + _DOWN / 3, b.y - _DOWN / 3
        return f"M{a.middle:g} {a.y + HEIGHT:g} V{up:g} H{side:g} V{down:g} H{b.middle:g} V{b.y:g}"
    spots = [(a.middle, a.y + HEIGHT)]
    for row in between:
        share = (row[0].y - a.y) / (b.y - a.y)
        x = _free(row, a.middle + share * (b.middle - a.middle))
        spots += [(x, row[0].y), (x, row[0].y + HEIGHT)]
    return f"M{a.middle:g} {a.y + HEIGHT:g}" + "".join(map(_curve, spots, [*spots[1:], (b.middle, b.y)]))


def _curve(begin: tuple[float, float], end: tuple[float, float]) -> str:
    """Leaves and arrives straight down."""
    bend = (end[1] - begin[1]) / 2
    return f" C{begin[0]:g} {begin[1] + bend:g} {end[0]:g} {end[1] - bend:g} {end[0]:g} {end[1]:g}"


def _free(row: Sequence[Spot], wish: float) -> float:
    """Where a line passes a row of boxes, as near to `wish` as it can."""
    margin = _ACROSS / 2
    sides = [x for s in row for x in (s.x - margin, s.x + s.width + margin)]
    free = [x for x in (wish, *sides) if all(not s.x - margin < x < s.x + s.width + margin for s in row)]
    return min(free, key=lambda x: abs(x - wish))


def _place(part: Part, picture: Picture, sources: dict[str, list[str]]) -> None:
    begin = picture.height
    if part.block:
        picture.height += _FRAME + _TITLE * (2 if part.block.note else 1)
    spots: list[Spot] = []
    for layer in part.layers:
        for row in _rows(sorted(layer, key=lambda n: _wish(n, picture, sources))):
            spots += _row(row, picture)
    if part.block and spots:
        middle = picture.width / 2
        half = max(middle - min(s.x for s in spots), max(s.x + s.width for s in spots) - middle) + _AGAIN
        width = max(2 * half, _text(part))
        left = middle - width / 2
        height = picture.height - begin - _DOWN + _FRAME
        picture.frames.append(Frame(part.block.title, part.block.note, left, begin, width, height))
        picture.height += _FRAME


def _text(part: Part) -> float:
    """The room for what is written in the part's frame."""
    return _LETTER * (max(len(part.block.title), len(part.block.note)) + 4) if part.block else 0


def _row(row: Sequence[NodeView], picture: Picture) -> list[Spot]:
    x = (picture.width - _span(row)) / 2
    spots = []
    for node in row:
        spots.append(Spot(node, x, picture.height, width_of(node)))
        x += width_of(node) + _ACROSS
    picture.spots.update({s.node.id: s for s in spots})
    picture.rows.append(spots)
    picture.height += HEIGHT + _DOWN
    return spots


def _wish(node: NodeView, picture: Picture, sources: dict[str, list[str]]) -> float:
    """The middle of what it reads from."""
    found = [picture.spots[s].middle for s in sources.get(node.id, ()) if s in picture.spots]
    return sum(found) / len(found) if found else picture.width / 2


def _rows(layer: Iterable[NodeView]) -> list[list[NodeView]]:
    rows: list[list[NodeView]] = [[]]
    for node in layer:
        if rows[-1] and _span([*rows[-1], node]) > _WIDEST:
            rows.append([])
        rows[-1].append(node)
    return rows


def _span(row: Sequence[NodeView]) -> float:
    return sum(map(width_of, row)) + _ACROSS * (len(row) - 1)
