"""The plan's dataflow graph, drawn in layers: boxes side by side wait for nothing from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rldsl.compiler.plan import Plan
from rldsl.render.nodes import NodeView, layers_of, nodes_of
from rldsl.render.style import role_style

_GAP = 2
_NARROWEST = 24
_WIDEST = 48
# Which line character joins (up, down, left, right).
_JOINTS = {
    (False, False, True, True): "─",
    (True, False, True, True): "┴",
    (False, True, True, True): "┬",
    (True, True, True, True): "┼",
    (True, False, False, True): "└",
    (True, False, True, False): "┘",
    (False, True, False, True): "┌",
    (False, True, True, False): "┐",
    (True, True, False, True): "├",
    (True, True, True, False): "┤",
}


class GraphView:
    """The graph of `plan`: a box a node (name, role, type, call, fields read and written), a row a layer.

    Lines lead from each layer to the next; a field read from further up is named in its reader's box.
    """

    def __init__(self, plan: Plan) -> None:
        self._layers = layers_of(nodes_of(plan))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        above: list[int] = []
        for layer in self._layers:
            rows = list(_rows(layer, width))
            for index, row in enumerate(rows):
                box = _box_width(len(row), width)
                centres = _centres(len(row), box, width)
                if index == 0 and above:
                    yield from _connector(above, centres)
                yield from _side_by_side([_box(node, box) for node in row], centres[0] - box // 2)
                above = centres
        if not self._layers:
            yield Text("(no nodes)", style="dim")


def _rows(layer: Sequence[NodeView], width: int) -> Iterator[Sequence[NodeView]]:
    """A layer too wide for the terminal goes on in further rows, evenly filled."""
    fits = max(1, (width + _GAP) // (_NARROWEST + _GAP))
    count = -(-len(layer) // fits)
    size = -(-len(layer) // count)
    for start in range(0, len(layer), size):
        yield layer[start : start + size]


def _box_width(count: int, width: int) -> int:
    return min(_WIDEST, (width + _GAP) // count - _GAP)


def _centres(count: int, box: int, width: int) -> list[int]:
    """The middle column of each of `count` boxes, the row as a whole in the middle of `width`."""
    left = (width - count * box - (count - 1) * _GAP) // 2
    return [left + i * (box + _GAP) + box // 2 for i in range(count)]


def _connector(sources: Sequence[int], targets: Sequence[int]) -> Iterator[Text]:
    """Lines from the boxes above to those below: straight down, or over one bar that joins all."""
    # A bend of one column looks like a mistake: let such a line go straight.
    sources = [next((t for t in targets if abs(t - s) == 1), s) for s in sources]
    both = [*sources, *targets]
    first, last = min(both), max(both)
    if first < last:
        joints = [_JOINTS[c in sources, c in targets, c > first, c < last] for c in range(first, last + 1)]
        yield Text(" " * first + "".join(joints), style="dim")
    yield Text("".join("▼" if c in targets else " " for c in range(last + 1)).rstrip(), style="dim")


def _box(node: NodeView, width: int) -> list[Text]:
    style = role_style(node.role)
    inner = width - 4
    body = [Text(line, style="bold") for line in _folded(node.call, inner)]
    body += [Text(_cut(node.type, inner), style="dim")] if node.type else []
    body += _fields("reads", node.reads, inner)
    body += _fields("writes", node.writes, inner)
    top = _top(node, width)
    lines = [Text.assemble(("│ ", style), line, " " * (inner - line.cell_len), (" │", style)) for line in body]
    return [top, *lines, Text("╰" + "─" * (width - 2) + "╯", style=style)]


def _top(node: NodeView, width: int) -> Text:
    """`╭─ rollout ──── ACTOR ─╮`; a role that does not fit beside the name is left to the colour."""
    style = role_style(node.role)
    name = _cut(node.id, width - 6)
    role = f" {node.role} " if len(name) + len(node.role) + 9 <= width else "─"
    rule = "─" * (width - len(name) - len(role) - 6)
    return Text.assemble(("╭─ ", style), (name, f"bold {style}"), (f" {rule}{role}─╮", style))


def _fields(label: str, names: Sequence[str], width: int) -> list[Text]:
    if not names:
        return []
    indent = " " * 7
    lines = wrap(", ".join(names), width - len(indent), break_on_hyphens=False)
    heads = [f"{label:<7}", *[indent] * (len(lines) - 1)]
    return [Text.assemble((head, "dim"), line) for head, line in zip(heads, lines, strict=True)]


def _folded(text: str, width: int) -> list[str]:
    return wrap(text, width, break_on_hyphens=False)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _side_by_side(boxes: Sequence[list[Text]], left: int) -> Iterator[Text]:
    """The boxes of one row, all as tall as the tallest."""
    tall = max(len(b) for b in boxes)
    even = [_stretched(box, tall) for box in boxes]
    for line in range(tall):
        parts = [box[line] for box in even]
        yield Text.assemble(" " * left, *(p for i, part in enumerate(parts) for p in ((" " * _GAP if i else ""), part)))


def _stretched(box: list[Text], height: int) -> list[Text]:
    width = box[0].cell_len
    style = box[-1].style
    blank = Text.assemble(("│", style), " " * (width - 2), ("│", style))
    return [*box[:-1], *[blank] * (height - len(box)), box[-1]]
