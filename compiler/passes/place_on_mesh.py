"""Which ranks run which node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Deploy, Graph, Method, Module, Node, PhaseLayout, Place
from rldsl.compiler.methods import ENGINES
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.check_counts import batch_of, divisors, minibatch_of
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.plan import Group, Phase, PhaseSpec
from rldsl.compiler.ranks import WORLD, Ranks, group_of, inside, words
from rldsl.diagnostics import Diagnostics, Span

_ROLLOUTS = (Method.GENERATE, Method.EXTEND)
_SCORES = (Method.LOGPROB, Method.VALUE, Method.SCORE)
_COUNTS = (Method.COLLECT,)


@dataclass(frozen=True, kw_only=True)
class PlaceOnMesh:
    """Give every node the group of ranks that runs it: that of its model's phase, or of its own `on`.

    Without a deployment every phase runs on all ranks, however many they will be. A node without a model runs where
    the training does, its rows dealt out over all those ranks if there are enough prompts.
    Before: `rollout`.   After: `rollout` on `ranks0-1`, the first 2 of 4 ranks.
    """

    name: ClassVar[str] = "place_on_mesh"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `world_size`, `groups`, `phases` and `placement`. RL0402, RL0465, RL0506: what cannot be."""
        deploy = module.graph.deploy or Deploy()
        world = _world_size(deploy, context)
        placer = _Placer(module, deploy, world, context.found)
        placement = {n.id: placer.group(n) for n in module.graph.nodes}
        placer.check(placement)
        groups = {g.name: g for g in placement.values()}
        return replace(
            module,
            world_size=world,
            groups=tuple(groups.values()),
            phases=tuple(placer.phases(placement)),
            placement={node: g.name for node, g in placement.items()},
        )


def _axes(layout: PhaseLayout) -> dict[str, int]:
    made = {}
    for axis in layout.axes:
        assert isinstance(axis.value, Literal) and isinstance(axis.value.value, int), "axes have been checked"
        made[axis.name] = axis.value.value
    return made


def _copies(axes: Mapping[str, int]) -> int:
    return axes.get("tp", 1) * axes.get("cp", 1) * axes.get("pp", 1)


def _end(layout: PhaseLayout) -> int | None:
    """The rank after the last that a layout says it needs."""
    axes = _axes(layout)
    if layout.ranks is not None:
        return layout.ranks[1] + 1
    return axes["dp"] * _copies(axes) if "dp" in axes else None


def _world_size(deploy: Deploy, context: Context) -> int | None:
    """Ranks asked for on the command line, else by the cluster, else by what layouts need, else open."""
    asked = context.world_size
    if asked is not None and asked < 1:
        context.found.error("RL0506", "--world-size must be at least 1", found=str(asked))
        return None
    ends = [end for p in deploy.layouts if (end := _end(p))] + [p.ranks[1] + 1 for p in deploy.places]
    return asked or deploy.count or max(ends, default=None)


class _Placer:
    """The groups of phases and nodes of one module."""

    def __init__(self, module: Module, deploy: Deploy, world: int | None, found: Diagnostics) -> None:
        self.module, self.deploy, self.world, self.found = module, deploy, world, found
        self.graph: Graph = module.graph
        self.trained = {trunk_of(n.call.model or "", self.graph) for n in _calling(self.graph, Method.TRAIN)}
        self.layouts = {(p.model, p.phase): p for p in deploy.layouts}
        self.on = {key: self.laid_out(p) for key, p in self.layouts.items()}
        self.places = {p.node: self.placed(p) for p in deploy.places}
        self.home = self.find_home()
        self.counts = self.find_counts()

    def laid_out(self, layout: PhaseLayout) -> Group:
        """The group that a layout describes; that of all ranks for one that cannot be."""
        axes, name = _axes(layout), f"`{layout.model}.{layout.phase}`"
        copies = _copies(axes)
        ranks = self.found_ranks(layout.ranks, layout.span, name) if layout.ranks else ()
        if layout.ranks and not ranks:
            return Group(name=WORLD)
        there = sum(last - first for first, last in ranks) if ranks else self.world
        if there is None:
            if copies > 1:
                self.wrong(layout, f"{name}: how many ranks are there?", "dp = ...", "no dp, and no cluster")
            return Group(name=WORLD)
        dp = axes.get("dp", there // copies)
        if layout.ranks is None and dp * copies > there:
            wants = f"{name} wants {dp * copies} ranks of {there}"
            self.wrong(layout, wants, f"dp <= {there // copies}", f"dp = {dp}")
        elif dp * copies != there and (ranks or "dp" not in axes):
            what = " x ".join(f"{axis} = {size}" for axis, size in {**axes, "dp": dp}.items())
            self.wrong(layout, f"{name} has {there} ranks, and its axes fill {dp * copies}", f"{there} ranks", what)
        elif layout.phase == Phase.TRAIN and layout.ranks is None and dp * copies < there:
            size = dp * copies
            self.found.error(
                "RL0506",
                f"`{layout.model}.train` uses {size} of {there} ranks: weights are sharded over all of them",
                span=layout.span,
                expected=f"dp = {there // copies}",
                found=f"dp = {dp}",
                fix=f"write `on 0..{size - 1}` if the other ranks are for something else",
            )
        elif dp * axes.get("cp", 1) * axes.get("tp", 1) % axes.get("ep", 1):
            self.wrong(layout, f"{name}: its experts do not divide over ep", f"a divisor of {dp}", f"ep = {axes['ep']}")
        return group_of(ranks or ((0, dp * copies),), self.world, **{a: n for a, n in axes.items() if a != "dp"})

    def wrong(self, layout: PhaseLayout, what: str, expected: str, found: str) -> None:
        self.found.error("RL0506", what, span=layout.span, expected=expected, found=found)

    def placed(self, place: Place) -> Group:
        """The group of a node that is put on ranks."""
        ranks = self.found_ranks(place.ranks, place.span, f"`{place.node}`")
        return group_of(ranks, self.world) if ranks else Group(name=WORLD)

    def found_ranks(self, ranks: tuple[int, int], span: Span | None, what: str) -> Ranks:
        """The ranks as a set, empty when they are not there."""
        first, last = ranks
        if last < first or (self.world is not None and last >= self.world):
            there = f"ranks 0 to {self.world - 1}" if self.world else "a rising range"
            said = f"on {first}..{last}"
            self.found.error("RL0506", f"{what} is on ranks that are not there", span=span, expected=there, found=said)
            return ()
        return ((first, last + 1),)

    def find_home(self) -> Group:
        """Where nodes without a model run: all ranks of the first training, or as many as there are shards of rows."""
        for node in _calling(self.graph, Method.TRAIN):
            trained = self.on.get((trunk_of(node.call.model or "", self.graph), Phase.TRAIN))
            if trained is None or self.world is None:
                continue
            spans, dp = trained.spans(self.world), trained.dp(self.world)
            whole = group_of(spans, self.world)
            if all(batch % whole.dp(self.world) == 0 for batch in self.module.batches.values()):
                return whole
            return group_of(((spans[0][0], spans[0][0] + dp),), self.world)
        return Group(name=WORLD)

    def find_counts(self) -> Group:
        """Where a loop counts what it has kept: all who wait for it to be enough must know."""
        nodes = [n for n in self.graph.nodes if n.call.method not in _COUNTS]
        return self.home if all(inside(self.group(n), self.home, self.world) for n in nodes) else Group(name=WORLD)

    def group(self, node: Node) -> Group:
        """The ranks of a node."""
        method, model = node.call.method, node.call.model or ""
        if method in _ROLLOUTS:
            return self.on.get((model, Phase.GENERATE), self.home)
        if method is Method.TRAIN or method in _SCORES:
            trunk = trunk_of(model, self.graph)
            phase = Phase.TRAIN if trunk in self.trained else Phase.INFER
            return self.on.get((trunk, phase), self.home)
        if method in _COUNTS:
            return self.counts
        return self.places.get(_written(node), self.home)

    def phases(self, placement: Mapping[str, Group]) -> Iterator[PhaseSpec]:
        """Engine and group of each phase of the models that are used."""
        seen: dict[tuple[str, Phase], PhaseSpec] = {}
        for node in self.graph.nodes:
            model, method = node.call.model, node.call.method
            if model is None or not (method in _ROLLOUTS or method in _SCORES or method is Method.TRAIN):
                continue
            trained = trunk_of(model, self.graph) in self.trained
            phase = Phase.GENERATE if method in _ROLLOUTS else Phase.TRAIN if trained else Phase.INFER
            owner = model if phase is Phase.GENERATE else trunk_of(model, self.graph)
            layout = self.layouts.get((owner, phase))
            engine = layout.engine if layout else ENGINES[phase][0]
            spec = PhaseSpec(model=model, phase=phase, engine=engine, group=placement[node.id].name)
            seen.setdefault((model, phase), spec)
        return iter(seen.values())

    def check(self, placement: Mapping[str, Group]) -> None:
        """Whether each rank gets as many prompts, and has something to do."""
        for layout in self.deploy.layouts:
            if layout.phase == Phase.INFER and trunk_of(layout.model, self.graph) in self.trained:
                what = f"`{layout.model}` is trained, and scores where it trains: `infer` has no layout of its own"
                self.found.error("RL0506", what, span=layout.span, fix="remove the line")
        if self.found.has_errors:
            return
        if self.world is not None and self.home.name == WORLD and self.module.divides % self.world:
            _does_not_divide(self.module, self.world, self.found)
        elif self.world is not None:
            self.divides(placement, self.world)
        if self.world is not None:
            self.idle(placement, self.world)

    def divides(self, placement: Mapping[str, Group], world: int) -> None:
        told: set[str] = set()
        for node in self.graph.nodes:
            group = placement[node.id]
            if group.name == self.home.name == WORLD or not any(name in self.module.fields for name in node.reads):
                continue
            batch = batch_of(self.module, node)
            counts = [batch, *([minibatch_of(node, batch)] if node.call.method is Method.TRAIN else [])]
            batches = [*self.module.batches.values()] if node.call.method in _ROLLOUTS else []
            bad = next((n for n in (*counts, *batches) if n % group.dp(world)), None)
            if bad is None or group.name in told:
                continue
            told.add(group.name)
            layout = next((p for key, p in self.layouts.items() if self.on[key].name == group.name), None)
            self.found.error(
                "RL0402",
                f"a batch of {bad} prompts does not divide over dp = {group.dp(world)}",
                span=layout.span if layout else self.deploy.span,
                expected=divisors(bad),
                found=str(group.dp(world)),
            )

    def idle(self, placement: Mapping[str, Group], world: int) -> None:
        """RL0465 for ranks that no node runs on."""
        busy: list[tuple[int, int]] = sorted({s for g in placement.values() for s in g.spans(world)})
        free: Ranks = ()
        at = 0
        for first, last in [*busy, (world, world)]:
            free = (*free, (at, first)) if first > at else free
            at = max(at, last)
        if free:
            self.found.warning(
                "RL0465",
                f"{words(free)} of {world} have nothing to do",
                span=self.deploy.span,
                fix="give them a phase with `on`, or make the cluster smaller",
            )


def _written(node: Node) -> str:
    """The name of a node in its file; each iteration of a loop has one of its own."""
    return f"{node.block}.{node.id.rpartition('.')[2]}" if node.block else node.id


def _calling(graph: Graph, method: Method) -> Iterator[Node]:
    return (n for n in graph.nodes if n.call.method is method)


def _does_not_divide(module: Module, world: int, found: Diagnostics) -> None:
    batches = " and ".join(str(n) for n in dict.fromkeys(module.batches.values()))
    found.error(
        "RL0402",
        f"the work of a step does not divide over {world} ranks",
        expected=f"{divisors(module.divides)} ranks",
        found=f"{world} ranks; a batch of {batches} prompts, minibatches in units of {module.divides}",
        fix=f"choose a number of ranks that divides {module.divides}, or change batch and minibatch",
    )
