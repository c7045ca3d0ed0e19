"""Lines from the boxes of one row down to those of the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from rich.text import Text

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
    (True, True, False, False): "│",
}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where lines leave or reach a box: its middle column. `ids` are the nodes in the box."""

    ids: frozenset[str]
    column: int


def stacked(rows: Sequence[Sequence[Spot]], at: int) -> list[Spot]:
    """The spots of row `at` of a layer that has several; each also stands for the boxes of other rows near it."""
    ids = [spot.ids for spot in rows[at]]
    for spot in (spot for row in rows for spot in row):
        near = min(range(len(ids)), key=lambda i: abs(rows[at][i].column - spot.column))
        ids[near] |= spot.ids
    return [Spot(each, spot.column) for each, spot in zip(ids, rows[at], strict=True)]


def connected(above: Sequence[Spot], below: Sequence[Spot], edges: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """Lines to the boxes below from those right above that they read from; a blank one where there are none."""
    found = set(edges)
    pairs = [(a.column, b.column) for a in above for b in below if not found.isdisjoint(product(a.ids, b.ids))]
    if pairs:
        yield from connector(pairs)
    elif above:
        yield Text()


def connector(pairs: Iterable[tuple[int, int]]) -> Iterator[Text]:
    """Lines for `pairs` of columns above and below: straight down, or over a bar; bars that overlap are one."""
    pairs = list(pairs)
    targets = {b for _, b in pairs}
    # A bend of one column looks like a mistake: let such a line go straight.
    straight = [(next((t for t in targets if abs(t - a) == 1), a), b) for a, b in pairs]
    if any(a != b for a, b in straight):
        yield Text(_row(_bars(straight)), style="dim")
    yield Text("".join("▼" if c in targets else " " for c in range(max(targets) + 1)), style="dim")


def _bars(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(sources, targets) of each bar, from left to right."""
    open_: list[tuple[int, int]] = []
    for pair in sorted(pairs, key=min):
        if open_ and min(pair) > max(map(max, open_)):
            yield tuple(a for a, _ in open_), tuple(b for _, b in open_)
            open_ = []
        open_.append(pair)
    if open_:
        yield tuple(a for a, _ in open_), tuple(b for _, b in open_)


def _row(bars: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    row = ""
    for sources, targets in bars:
        first, last = min(*sources, *targets), max(*sources, *targets)
        joints = [_JOINTS[c in sources, c in targets, c > first, c < last] for c in range(first, last + 1)]
        row = row.ljust(first) + "".join(joints)
    return row
