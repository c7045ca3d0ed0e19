"""What is declared and does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rldsl.compiler.expr import Expr, references
from rldsl.compiler.ir import SINKS, BlockKind, Graph, Method, ModelKind, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Phase
from rldsl.diagnostics import Diagnostics, Span

SEED = "seed"
"""A parameter of this name seeds sampling and the order of the data: the runtime reads it."""

_PHASES = {
    Phase.TRAIN.value: ({Method.TRAIN}, "trains"),
    Phase.GENERATE.value: ({Method.GENERATE, Method.EXTEND}, "samples from"),
    Phase.INFER.value: ({Method.LOGPROB, Method.VALUE, Method.SCORE}, "scores with"),
}


@dataclass(frozen=True, kw_only=True)
class WarnUnused:
    """Warn of what nothing uses, as the source has it, whatever its parameters are; the graph stays as it is.

    A program with errors is left in peace. What is imported counts as used: other files may use it.
    Before: `model judge : reward = hf("path")`, and no `judge.score`.   After: the same, and RL0453.
    """

    name: ClassVar[str] = "warn_unused"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is; RL0451 to RL0453, RL0458, RL0459, RL0463 and RL0464."""
        if context.found.has_errors:
            return module  # what is unused may be what is missing elsewhere
        use = _Use(module.graph, context.found)
        use.blocks()
        use.nodes()
        use.models()
        use.params()
        use.layouts()
        _functions(module, context.found)
        return module


class _Use:
    """What of a graph is used."""

    def __init__(self, graph: Graph, found: Diagnostics) -> None:
        self.graph, self.found = graph, found
        self.idle: set[str] = set()  # blocks that do nothing: what stands in them is not reported again

    def warn(self, code: str, message: str, span: Span | None, fix: str | None = None) -> None:
        if not _imported(span, self.graph):
            self.found.warning(code, message, span=span, fix=fix)

    def blocks(self) -> None:
        leaving = {n.block for n in self.graph.nodes if n.call.method in SINKS}
        for block in self.graph.blocks:
            if block.id in leaving:
                continue
            if block.kind is BlockKind.VALIDATE:
                self.idle.add(block.id)
                what = f"`{block.id}` has neither metric nor output, so nothing comes of it"
                self.warn("RL0458", what, block.span, "add such as `metric accuracy = mean(score)`")
            elif block.where is None and block.carry:
                outside = {f for n in self.graph.nodes if n.block != block.id for f in n.reads}
                outside |= {c.name for b in self.graph.blocks if b is not block for c in b.carry}
                handed = [c.param or "" for c in block.carry]
                if outside.isdisjoint(handed):
                    self.idle.add(block.id)
                    what = f"nothing reads what `{block.id}` carries, so it will not run"
                    self.warn("RL0451", what, block.span)

    def nodes(self) -> None:
        read = {f for n in self.graph.nodes for f in n.reads}
        # What a loop carries is read by its next iteration.
        read |= {f for b in self.graph.blocks for c in b.carry for f in (c.name, c.param) if f}
        for node in self.graph.nodes:
            if node.outputs and read.isdisjoint(node.outputs) and node.block not in self.idle:
                shown = ", ".join(f"`{o}`" for o in node.outputs)
                self.warn("RL0451", f"nothing reads {shown} of `{node.id}`, so it will not run", node.span)

    def models(self) -> None:
        models, nodes = self.graph.models, self.graph.nodes
        used = {n.call.model for n in nodes} | {m.copy_of for m in models} | {m.shares for m in models}
        trained = {n.call.model for n in nodes if n.call.method is Method.TRAIN}
        for model in models:
            if model.name not in used:
                self.warn("RL0453", f"no node uses model `{model.name}`", model.span, "remove it")
            elif model.kind is ModelKind.VALUE and not model.frozen and model.name not in trained:
                what = f"no node trains `{model.name}`, so its values stay as they begin"
                self.warn("RL0463", what, model.span, f"add `{model.name}.train value_loss(...)`, or write `frozen`")

    def params(self) -> None:
        read = {r.name for e in _expressions(self.graph) for r in references(e)}
        for param in self.graph.params:
            if param.name not in read and param.name != SEED:
                self.warn("RL0452", f"nothing reads parameter `{param.name}`", param.span, "remove it")

    def layouts(self) -> None:
        deploy = self.graph.deploy
        for layout in deploy.layouts if deploy else ():
            if layout.phase not in _PHASES:
                continue  # RL0506
            methods, does = _PHASES[layout.phase]
            if not any(n.call.model == layout.model and n.call.method in methods for n in self.graph.nodes):
                what = f"`{layout.model}.{layout.phase}` has a layout, but no node {does} `{layout.model}`"
                scores, _ = _PHASES[Phase.INFER]
                only = layout.phase == Phase.TRAIN and any(
                    n.call.model == layout.model and n.call.method in scores for n in self.graph.nodes
                )
                fix = f"write `{layout.model}.infer`" if only else "remove it"
                self.warn("RL0459", what, layout.span, fix)


def _expressions(graph: Graph) -> Iterator[Expr]:
    yield from (i.batch for i in graph.inputs)
    sources = [i.source for i in graph.inputs] + [m.source for m in graph.models if m.source]
    yield from (e for s in sources for e in (*s.args, *(k.value for k in s.keywords)))
    yield from (e for n in graph.nodes for e in _of_node(n))
    yield from (k.value for m in graph.models for k in m.options)
    yield from (e for b in graph.blocks for e in (b.bound, b.until) if e)
    if graph.deploy:
        yield from (k.value for k in graph.deploy.figures)
        yield from (k.value for p in graph.deploy.layouts for k in p.axes)


def _of_node(node: Node) -> Iterator[Expr]:
    yield from (k.value for k in (*node.call.keywords, *node.call.options))
    if node.when:
        yield node.when


def _functions(module: Module, found: Diagnostics) -> None:
    """RL0464 for a file of functions of which none is called."""
    graph = module.graph
    used = {s.file for s in module.signatures.values()}
    for use in graph.uses:
        if use.path not in used and not _imported(use.span, graph):
            what = f"no node calls a function of `{use.path}`"
            found.warning("RL0464", what, span=use.span, fix="remove the line")


def _imported(span: Span | None, graph: Graph) -> bool:
    """Whether something stands in another file, which others may import for more than this one does."""
    return span is not None and graph.span is not None and span.file != graph.span.file
