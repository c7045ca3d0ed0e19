"""Which ranks run which node."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Deploy, Graph, Method, Module, Node
from rldsl.compiler.layouts import Layouts, world_size
from rldsl.compiler.methods import ENGINES
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.check_counts import batch_of, divisors, minibatch_of
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.plan import Group, Phase, PhaseSpec
from rldsl.compiler.ranks import WORLD, Ranks, group_of, union, words
from rldsl.diagnostics import Diagnostics, Span

_ROLLOUTS = (Method.GENERATE, Method.EXTEND)
_SCORES = (Method.LOGPROB, Method.VALUE, Method.SCORE)


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
        world = world_size(deploy, context.world_size, context.found)
        if context.found.has_errors:
            return module
        placer = _Placer(module, deploy, world, context)
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


class _Placer:
    """The groups of phases and nodes of one module."""

    def __init__(self, module: Module, deploy: Deploy, world: int | None, context: Context) -> None:
        self.module, self.deploy, self.world, self.found = module, deploy, world, context.found
        self.asked = context.world_size is not None
        self.graph: Graph = module.graph
        self.trained = {trunk_of(n.call.model or "", self.graph) for n in _calling(self.graph, Method.TRAIN)}
        self.layouts = {(p.model, p.phase): p for p in deploy.layouts}
        laid = Layouts(world, context.found)
        self.on = {key: laid.phase(p) for key, p in self.layouts.items()}
        self.places = {p.node: laid.place(p) for p in deploy.places}
        self.home = self.find_home()
        loops = dict.fromkeys(n.block or n.id for n in _calling(self.graph, Method.COLLECT))
        self.counts = {loop: self.find_counts(loop) for loop in loops}

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

    def find_counts(self, loop: str) -> Group:
        """Where a loop counts what it keeps: all who wait for it to be enough must know.

        If they are more than its prompts divide over, several of them hold the same rows.
        """
        if self.world is None:
            return Group(name=WORLD)
        inside = [n for n in self.graph.nodes if n.block == loop and n.call.method is not Method.COLLECT]
        ranks = union(*(self.group(n).spans(self.world) for n in inside))
        size = sum(last - first for first, last in ranks)
        batches = [batch_of(self.module, n) for n in self.graph.nodes if n.block == loop]
        shards = math.gcd(size, self.module.batches.get(f"{loop}.kept", size), *batches)
        return group_of(ranks, self.world, tp=size // shards)

    def group(self, node: Node) -> Group:
        """The ranks of a node."""
        method, model = node.call.method, node.call.model or ""
        if method in _ROLLOUTS:
            return self.on.get((model, Phase.GENERATE), self.home)
        if method is Method.TRAIN or method in _SCORES:
            trunk = trunk_of(model, self.graph)
            phase = Phase.TRAIN if trunk in self.trained else Phase.INFER
            return self.on.get((trunk, phase), self.home)
        if method is Method.COLLECT:
            return self.counts[node.block or node.id]
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
            trunk = trunk_of(layout.model, self.graph)
            if trunk != layout.model and layout.phase != Phase.GENERATE:
                what = f"`{layout.model}` sits on the trunk of `{trunk}`, and runs where that does"
                self.found.error("RL0506", what, span=layout.span, fix=f"lay out `{trunk}.{layout.phase}`")
            elif layout.phase == Phase.INFER and trunk in self.trained:
                what = f"`{layout.model}` is trained, and scores where it trains: `infer` has no layout of its own"
                self.found.error("RL0506", what, span=layout.span, fix="remove the line")
        if self.found.has_errors:
            return
        if self.world is not None and self.home.name == WORLD and self.module.divides % self.world:
            _does_not_divide(self.module, self.world, None if self.asked else self.said(self.home), self.found)
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
            bad = next((n for n in counts if n % group.dp(world)), None)
            if bad is None or group.name in told:
                continue
            told.add(group.name)
            self.found.error(
                "RL0402",
                f"a batch of {bad} prompts does not divide over dp = {group.dp(world)} of `{node.id}`",
                span=self.said(group),
                expected=divisors(bad),
                found=str(group.dp(world)),
            )

    def said(self, group: Group) -> Span | None:
        """The line of the deployment that speaks of a group, else all of it."""
        layouts = (p.span for key, p in self.layouts.items() if self.on[key].name == group.name)
        places = (p.span for p in self.deploy.places if self.places[p.node].name == group.name)
        return next((span for span in (*layouts, *places) if span), self.deploy.span)

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


def _does_not_divide(module: Module, world: int, span: Span | None, found: Diagnostics) -> None:
    batches = " and ".join(str(n) for n in dict.fromkeys(module.batches.values()))
    found.error(
        "RL0402",
        f"the work of a step does not divide over {world} ranks",
        span=span,
        expected=f"{divisors(module.divides)} ranks",
        found=f"{world} ranks; a batch of {batches} prompts, minibatches in units of {module.divides}",
        fix=f"choose a number of ranks that divides {module.divides}, or change batch and minibatch",
    )
