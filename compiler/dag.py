"""An order of things of which some wait for others.

networkx has this, too, but takes longer to import than a check takes; it stays for what only wrong programs need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush


def in_order(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """`names`, each behind all from which an edge leads to it; of those that could be next, the first named.

    Without those that lie on a circle of edges, or behind one: then there are fewer than `names`.
    """
    listed = list(dict.fromkeys(names))
    place = {name: i for i, name in enumerate(listed)}
    waiting = [0] * len(listed)
    behind: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        waiting[place[target]] += 1
        behind[place[source]].append(place[target])
    ready = [i for i, count in enumerate(waiting) if not count]
    heapify(ready)
    done = []
    while ready:
        here = heappop(ready)
        done.append(listed[here])
        for after in behind[here]:
            waiting[after] -= 1
            if not waiting[after]:
                heappush(ready, after)
    return tuple(done)


def leading_to(roots: Iterable[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """`roots`, and all from which edges lead to one of them."""
    before: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        before[target].append(source)
    waiting = list(roots)
    found = set(waiting)
    while waiting:
        new = set(before[waiting.pop()]) - found
        found |= new
        waiting += new
    return found
