"""Which ranks run which node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Deploy, Method, Module, Node, PhaseLayout
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.check_counts import divisors
from rldsl.compiler.plan import Group, Phase
from rldsl.diagnostics import Diagnostics

WORLD = "world"


@dataclass(frozen=True, kw_only=True)
class PlaceOnMesh:
    """Give every node the group of ranks that runs it: the first dp ranks of its phase's layout.

    Without a deployment every phase runs on all ranks, however many they will be.
    Before: `rollout`.   After: `rollout` on `dp2`, the first 2 of 4 ranks.
    """

    name: ClassVar[str] = "place_on_mesh"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `world_size`, `groups` and `placement`. RL0402 and RL0506 for what cannot be."""
        deploy = module.graph.deploy or Deploy()
        sizes = {(p.model, p.phase): size for p in deploy.layouts if (size := _layout_size(p))}
        world = _world_size(deploy, sizes, context)
        if world is not None and module.divides % world:
            _does_not_divide(module, world, context.found)
        groups, placement = {WORLD: Group(name=WORLD)}, {}
        for node in module.graph.nodes:
            group = _group_of(node, sizes, world)
            groups.setdefault(group.name, group)
            placement[node.id] = group.name
        for layout in deploy.layouts:
            size = sizes.get((layout.model, layout.phase), 1)
            for batch in dict.fromkeys(module.batches.values()):
                if batch % size:
                    context.found.error(
                        "RL0402",
                        f"a batch of {batch} prompts does not divide over dp = {size}",
                        span=layout.span,
                        expected=divisors(batch),
                        found=str(size),
                    )
        return replace(
            module,
            world_size=world,
            groups=tuple(groups.values()),
            placement=placement,
        )


def _layout_size(layout: PhaseLayout) -> int | None:
    for axis in layout.axes:
        if axis.name == "dp":
            assert isinstance(axis.value, Literal) and isinstance(axis.value.value, int), "dp has been checked"
            return axis.value.value
    return None


def _world_size(deploy: Deploy, sizes: dict[tuple[str, str], int], context: Context) -> int | None:
    """Ranks asked for on the command line, else by the cluster, else by the largest layout, else open."""
    asked, largest = context.world_size, max(sizes.values(), default=None)
    if asked is not None and asked < 1:
        context.found.error("RL0506", "--world-size must be at least 1", found=str(asked))
        return None
    world = asked or deploy.count or largest
    spans = {(p.model, p.phase): p.span for p in deploy.layouts}
    for (model, phase), size in sizes.items():
        if world is not None and size > world:
            context.found.error(
                "RL0506",
                f"`{model}.{phase}` wants {size} ranks of {world}",
                span=spans[model, phase],
                expected=f"dp <= {world}",
                found=f"dp = {size}",
            )
        if phase == Phase.TRAIN and world is not None and size < world:
            context.found.error(
                "RL0506",
                f"`{model}.train` uses {size} of {world} ranks: weights are sharded over all of them",
                span=spans[model, phase],
                expected=f"dp = {world}",
                found=f"dp = {size}",
            )
    return world


def _does_not_divide(module: Module, world: int, found: Diagnostics) -> None:
    batches = " and ".join(str(n) for n in dict.fromkeys(module.batches.values()))
    found.error(
        "RL0402",
        f"the work of a step does not divide over {world} ranks",
        expected=f"{divisors(module.divides)} ranks",
        found=f"{world} ranks; a batch of {batches} prompts, minibatches in units of {module.divides}",
        fix=f"choose a number of ranks that divides {module.divides}, or change batch and minibatch",
    )


def _group_of(node: Node, sizes: dict[tuple[str, str], int], world: int | None) -> Group:
    if node.call.method not in (Method.GENERATE, Method.EXTEND):
        return Group(name=WORLD)
    size = sizes.get((node.call.model or "", Phase.GENERATE.value))
    return Group(name=WORLD) if size is None or size == world else Group(name=f"dp{size}", size=size)
