"""What is equal to the weights beneath adapters that train is not held a second time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec.structs import replace as with_

from rldsl.compiler.ir import Method, Model, ModelKind, Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.plan import Group, Phase
from rldsl.compiler.specs import model_spec


@dataclass(frozen=True, kw_only=True)
class ShareBaseWeights:
    """Let a policy that nothing trains run on the weights of one of which only adapters train, where these are equal.

    LoRA (arXiv 2106.09685) leaves what lies beneath the adapters as it was loaded. So both must be loaded from one
    source in one precision, as a copy is; the other policy only scores, on the same ranks, in the same layout and by
    the same engine, and no further head sits on it. Log-probs are the same to the bit.
    Before: `ref = reference.logprob(tokens, response_mask)`, where `reference` is `frozen actor` and has its weights.
    After:  the same `ref`, where `reference` is the base of `actor`: its layers run with the adapters off.
    """

    name: ClassVar[str] = "share_base_weights"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph with `base_of` of such models; nodes that use them say why."""
        bases = dict(_bases(module))
        if not bases:
            return module
        models = tuple(replace(m, base_of=bases.get(m.name)) for m in module.graph.models)
        nodes = tuple(_saying(n, bases.get(n.call.model or "")) for n in module.graph.nodes)
        return replace(module, graph=replace(module.graph.with_nodes(nodes), models=models))


def _bases(module: Module) -> Iterator[tuple[str, str]]:
    """Each model that needs no weights of its own, and the one whose base it is."""
    graph = module.graph
    trained = {trunk_of(n.call.model or "", graph) for n in graph.nodes if n.call.method is Method.TRAIN}
    adapted = [m for m in graph.models if m.name in trained and m.kind is ModelKind.POLICY and m.options]
    for model in graph.models if adapted else ():
        if _only_scores(model, module, trained):
            other = next((m for m in adapted if _equal(model, m, module)), None)
            if other is not None:
                yield model.name, other.name


def _only_scores(model: Model, module: Module, trained: set[str]) -> bool:
    """Whether it is a policy that does nothing else, with layers that nobody else uses."""
    if model.kind is not ModelKind.POLICY or model.name in trained:
        return False
    used = {n.call.method for n in module.graph.nodes if n.call.model == model.name}
    return used == {Method.LOGPROB} and all(m.shares != model.name for m in module.graph.models)


def _equal(model: Model, adapted: Model, module: Module) -> bool:
    """Whether they are loaded alike, and lie alike."""
    mine, theirs = (model_spec(m, module) for m in (model, adapted))
    alike = (mine.source, mine.source_args, mine.precision) == (theirs.source, theirs.source_args, theirs.precision)
    return alike and _place(model.name, Phase.INFER, module) == _place(adapted.name, Phase.TRAIN, module)


def _place(model: str, phase: Phase, module: Module) -> tuple[str, Group]:
    """The engine of a phase, and its group but for the name."""
    spec = next(p for p in module.phases if (p.model, p.phase) == (model, phase))
    group = next(g for g in module.groups if g.name == spec.group)
    return spec.engine, with_(group, name="")


def _saying(node: Node, adapted: str | None) -> Node:
    if adapted is None:
        return node
    model = node.call.model
    why = f"`{model}` is what `{adapted}` was at first, and training changes the adapters of `{adapted}` alone"
    reason = Reason(
        by=ShareBaseWeights.name, why=f"{why}: its layers run without them, and `{model}` has no weights of its own"
    )
    return changed(node, because=(*node.because, reason))
