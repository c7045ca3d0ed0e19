"""The ranks that a deployment speaks of, as groups, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Deploy, Keyword, PhaseLayout, Place
from rldsl.compiler.plan import Group, Phase
from rldsl.compiler.ranks import WORLD, Ranks, group_of
from rldsl.diagnostics import Diagnostics, Span

MOST_RANKS = 1 << 24
"""Of one plan: a hundred times the largest cluster there is."""


def world_size(deploy: Deploy, asked: int | None, found: Diagnostics) -> int | None:
    """Ranks asked for on the command line, else by the cluster, else by what layouts need, else open."""
    if asked is not None and asked < 1:
        found.error("RL0506", "--world-size must be at least 1", found=str(asked))
        return None
    needed = [*((_end(p), p.span) for p in deploy.layouts), *((p.ranks[1] + 1, p.span) for p in deploy.places)]
    cluster = (deploy.count or 0, deploy.span)
    size, span = (asked, None) if asked else cluster if deploy.count else max(needed, key=_first, default=(0, None))
    if size > MOST_RANKS:
        found.error("RL0506", "a plan is for fewer ranks", span=span, expected=f"at most {MOST_RANKS}", found=f"{size}")
    return size or None


def _first(need: tuple[int, Span | None]) -> int:
    return need[0]


def _end(layout: PhaseLayout) -> int:
    """The rank after the last that a layout says it needs."""
    axes = sizes_of(layout)
    if layout.ranks is not None:
        return layout.ranks[1] + 1
    return axes["dp"] * _copies(axes) if "dp" in axes else 0


def sizes_of(layout: PhaseLayout) -> dict[str, int]:
    """The axes that it names."""
    made = {}
    for axis in layout.axes:
        assert isinstance(axis.value, Literal) and isinstance(axis.value.value, int), "axes have been checked"
        made[axis.name] = axis.value.value
    return made


def relaid(layout: PhaseLayout, axes: Mapping[str, int]) -> PhaseLayout:
    """A layout along other axes; where it says a dp, with the one that fills as many ranks, if there is any."""
    sizes = {name: size for name, size in axes.items() if size > 1 and name != "dp"}
    before = sizes_of(layout)
    if "dp" in before:
        sizes["dp"] = max(1, before["dp"] * _copies(before) // _copies(sizes))
    return replace(layout, axes=tuple(Keyword(name=name, value=Literal(value=n)) for name, n in sizes.items()))


def _copies(axes: Mapping[str, int]) -> int:
    return math.prod(axes.get(axis, 1) for axis in ("tp", "cp", "pp"))


class Layouts:
    """Makes the groups of a deployment for `world` ranks; RL0506 for one that cannot be, and all ranks in its place."""

    def __init__(self, world: int | None, found: Diagnostics) -> None:
        self.world, self.found = world, found

    def phase(self, layout: PhaseLayout) -> Group:
        """The group that a layout describes."""
        axes, name = sizes_of(layout), f"`{layout.model}.{layout.phase}`"
        copies = _copies(axes)
        ranks = self.ranks(layout.ranks, layout.span, name) if layout.ranks else ()
        if layout.ranks and not ranks:
            return Group(name=WORLD)
        there = sum(last - first for first, last in ranks) if ranks else self.world
        if there is None:
            if copies > 1:
                self.wrong(layout, f"{name}: how many ranks are there?", "dp = ...", "no dp, and no cluster")
            return Group(name=WORLD)
        dp = axes.get("dp", there // copies)
        if not self.fits(layout, name, {**axes, "dp": dp}, there, open_ended=not ranks and "dp" in axes):
            return Group(name=WORLD)
        return group_of(ranks or ((0, dp * copies),), self.world, **{a: n for a, n in axes.items() if a != "dp"})

    def fits(self, layout: PhaseLayout, name: str, axes: Mapping[str, int], there: int, *, open_ended: bool) -> bool:
        """Whether the axes fill the ranks, or with an open end so many of them."""
        copies, dp = _copies(axes), axes["dp"]
        size, said = copies * dp, " x ".join(f"{axis} = {n}" for axis, n in axes.items() if axis != "ep" and n)
        if copies > there:
            self.wrong(layout, f"{name} wants {max(size, copies)} ranks of {there}", f"at most {there} ranks", said)
        elif size > there and open_ended:
            self.wrong(layout, f"{name} wants {size} ranks of {there}", f"dp <= {there // copies}", f"dp = {dp}")
        elif size != there and not open_ended:
            self.wrong(layout, f"{name} has {there} ranks, and its axes fill {size}", f"{there} ranks", said)
        elif size < there and layout.phase == Phase.TRAIN:
            self.found.error(
                "RL0506",
                f"{name} uses {size} of {there} ranks: weights are sharded over all of them",
                span=layout.span,
                expected=f"dp = {there // copies}",
                found=f"dp = {dp}",
                fix=f"write `on 0..{size - 1}` if the other ranks are for something else",
            )
        elif (sharing := dp * axes.get("cp", 1) * axes.get("tp", 1)) % axes.get("ep", 1):
            what = f"{name}: its experts do not divide over ep"
            self.wrong(layout, what, f"a divisor of {sharing}", f"ep = {axes['ep']}")
        else:
            return True
        return False

    def wrong(self, layout: PhaseLayout, what: str, expected: str, found: str) -> None:
        """Say so at the line of the layout."""
        self.found.error("RL0506", what, span=layout.span, expected=expected, found=found)

    def place(self, place: Place) -> Group:
        """The group of a node that is put on ranks."""
        ranks = self.ranks(place.ranks, place.span, f"`{place.node}`")
        return group_of(ranks, self.world) if ranks else Group(name=WORLD)

    def ranks(self, ranks: tuple[int, int], span: Span | None, what: str) -> Ranks:
        """The ranks as a set, empty when they are not there."""
        first, last = ranks
        if last < first or (self.world is not None and last >= self.world):
            rising = "a rising range" if last < first else "these ranks"
            there = f"ranks 0 to {self.world - 1}" if self.world and last >= first else rising
            said = f"on {first}" if first == last else f"on {first}..{last}"
            self.found.error("RL0506", f"{what} is on ranks that are not there", span=span, expected=there, found=said)
            return ()
        return ((first, last + 1),)
