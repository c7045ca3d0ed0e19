"""Sets of ranks, as rising pairs (first, past the last), and the groups that they make."""

from __future__ import annotations

from collections.abc import Iterable

from rldsl.compiler.ops import Move
from rldsl.compiler.plan import Group

WORLD = "world"
Ranks = tuple[tuple[int, int], ...]


def union(*sets: Iterable[tuple[int, int]]) -> Ranks:
    """All ranks of any of the sets."""
    made: list[tuple[int, int]] = []
    for first, last in sorted(span for each in sets for span in each):
        if made and first <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], last))
        else:
            made.append((first, last))
    return tuple(made)


def common(one: Ranks, other: Ranks) -> Ranks:
    """The ranks that are in both."""
    spans = ((max(a, first), min(b, last)) for a, b in one for first, last in other)
    return union(span for span in spans if span[0] < span[1])


def contains(outer: Ranks, inner: Ranks) -> bool:
    """Whether all ranks of `inner` are in `outer`."""
    return all(any(a <= first and last <= b for a, b in outer) for first, last in inner)


def meet(one: Group, other: Group) -> bool:
    """Whether a rank is in both groups."""
    pairs = ((a, b) for a in one.ranks for b in other.ranks)
    return not one.ranks or not other.ranks or any(a[0] < b[1] and b[0] < a[1] for a, b in pairs)


def words(ranks: Ranks) -> str:
    """`rank 3`, `ranks 0 to 3`, `ranks 0 to 1 and 4 to 7`."""
    parts = [str(first) if last == first + 1 else f"{first} to {last - 1}" for first, last in ranks]
    several = len(ranks) > 1 or ranks[0][1] - ranks[0][0] > 1
    return f"rank{'s' if several else ''} {' and '.join(parts)}"


def group_of(ranks: Ranks, world: int | None, *, tp: int = 1, cp: int = 1, pp: int = 1, ep: int = 1) -> Group:
    """The group of `ranks` along these axes, named after them; `world` for all ranks with dp alone."""
    axes = {"tp": tp, "cp": cp, "pp": pp, "ep": ep}
    alone = all(size == 1 for size in axes.values())
    if alone and world is not None and ranks == ((0, world),):
        return Group(name=WORLD)
    spans = ",".join(str(first) if last == first + 1 else f"{first}-{last - 1}" for first, last in ranks)
    name = "-".join([f"ranks{spans}", *(f"{axis}{size}" for axis, size in axes.items() if size > 1)])
    return Group(name=name, ranks=ranks, **axes)


def inside(one: Group, other: Group, world: int | None) -> bool:
    """Whether all ranks of `one` are among those of `other`; the group of all ranks of an open plan is in itself."""
    if world is None or not other.ranks:
        return not other.ranks
    return contains(other.ranks, one.spans(world))


def joined(one: Group, other: Group, world: int | None) -> Group:
    """The group of the ranks of both, whose rows are dealt out over all of them."""
    if world is None:
        return Group(name=WORLD)
    return group_of(union(one.spans(world), other.spans(world)), world)


def move_kind(source: Group, target: Group, world: int | None) -> Move:
    """What it takes to give rows of one layout the other."""
    if world is None:
        return Move.ALL_TO_ALL
    here, there = source.dp(world), target.dp(world)
    same_ranks = source.spans(world) == target.spans(world)
    # Neighbours differ in dp on both sides, so a finer dealing of the same ranks only drops rows.
    finer = same_ranks and source.tp == source.cp == target.tp == target.cp == 1 and there % here == 0
    if finer or (here == 1 and inside(target, source, world)):
        return Move.LOCAL
    if there == 1:
        return Move.GATHER if target.copies == 1 else Move.BROADCAST
    return Move.SCATTER if here == 1 else Move.ALL_TO_ALL
