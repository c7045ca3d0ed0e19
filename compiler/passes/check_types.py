"""dtype, axes, unit and lineage of every field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from rldsl.compiler.expr import Binary, Expr
from rldsl.compiler.ir import FieldArg, FieldInfo, Graph, Method, Module, Node
from rldsl.compiler.methods import METHODS
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_arguments import field_params
from rldsl.compiler.signature import FieldParam
from rldsl.diagnostics import Diagnostics, Label
from rldsl.types import PROMPT, SAMPLE, FieldType


@dataclass(frozen=True, kw_only=True)
class CheckTypes:
    """Give every field its type and lineage, and check every argument against its parameter.

    A prompt field may be read where a sample field is expected: it is repeated for each sample.
    A field whose producer is in error gets no type, and nothing that reads it is reported again.
    Before: `score` unknown.   After: `score : f32[sample]`, samples of `rollout`.
    """

    name: ClassVar[str] = "check_types"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `fields`."""
        graph = module.graph
        checker = _Checker(module, context.found)
        for item in graph.inputs:
            if item.type.unit != PROMPT:
                context.found.error(
                    "RL0301",
                    "an input has one row a prompt",
                    span=item.span,
                    expected="text[prompt]",
                    found=str(item.type),
                )
            for name in item.names:
                checker.fields[name] = FieldInfo(type=item.type, producer="input")
        dag = graph.dag()
        if nx.is_directed_acyclic_graph(dag):
            for node_id in nx.lexicographical_topological_sort(dag, key=lambda n: _position(graph, n)):
                checker.node(graph.node_of[node_id])
        _warn_unread(graph, context.found)
        if not any(n.call.method is Method.TRAIN for n in graph.nodes):
            what = (
                "no node trains a model: nothing would come of a run" if graph.nodes else "there is no algorithm here"
            )
            fix = "add a `train` node" if graph.nodes else "`rldsl check` an example to see what one looks like"
            context.found.error("RL0403", what, span=graph.span, fix=fix)
        return replace(module, fields=checker.fields)


def _warn_unread(graph: Graph, found: Diagnostics) -> None:
    """RL0451 for a node of which nothing is read, RL0453 for a model that nothing uses: legal, but surely unwanted."""
    read = {name for n in graph.nodes for name in n.reads}
    for node in graph.nodes:
        if node.outputs and not read.intersection(node.outputs):
            shown = ", ".join(f"`{o}`" for o in node.outputs)
            found.warning("RL0451", f"nothing reads {shown} of `{node.id}`, so it will not run", span=node.span)
    used = {n.call.model for n in graph.nodes} | {m.copy_of for m in graph.models}
    for model in graph.models:
        if model.name not in used:
            found.warning("RL0453", f"no node uses model `{model.name}`", span=model.span, fix="remove it")


def _position(graph: Graph, node_id: str) -> str:
    return f"{graph.nodes.index(graph.node_of[node_id]):09d}"


class _Checker:
    def __init__(self, module: Module, found: Diagnostics) -> None:
        self.graph, self.signatures, self.found = module.graph, module.signatures, found
        self.fields: dict[str, FieldInfo] = {}

    def node(self, node: Node) -> None:
        self.model_kind(node)
        signature = self.signatures.get(node.call.function or "")
        params = {p.name: p for p in field_params(node.call, signature)}
        clean = all(self.argument(node, arg, params.get(arg.param or "")) for arg in node.call.args)
        lineage = self.lineage(node)
        if node.call.method is Method.GENERATE:
            lineage = node.id
        if not clean:
            return
        self.reduction(node, lineage)
        self.lengths(node)
        for name, kind in zip(node.outputs, self.output_types(node), strict=False):
            self.fields[name] = FieldInfo(type=kind, producer=node.id, lineage=lineage if kind.unit == SAMPLE else None)

    def output_types(self, node: Node) -> tuple[FieldType, ...]:
        if node.call.method is not None:
            return tuple(kind for _, kind in METHODS[node.call.method].outputs)
        signature = self.signatures.get(node.call.function or "")
        return signature.outputs if signature else ()

    def lengths(self, node: Node) -> None:
        """RL0301 for a function that makes tokens' values of fields without tokens: their number is unknown."""
        reads = [info.type for a in node.call.args if (info := self.fields.get(a.name))]
        writes = self.output_types(node)
        if node.call.method is None and any(k.ragged for k in writes) and not any(k.ragged for k in reads):
            self.found.error(
                "RL0301",
                f"`{node.call.function}` writes a value for each token, but reads no field that has tokens",
                span=node.call.span,
                fix="let it read `response_mask` as well",
            )

    def reduction(self, node: Node, lineage: str | None) -> None:
        """RL0301 for a function that makes prompt rows of sample rows: it sees a rank's rows as they are."""
        if node.call.method is None and lineage and any(k.unit == PROMPT for k in self.output_types(node)):
            self.found.error(
                "RL0301",
                f"`{node.call.function}` reads samples and cannot write prompt rows",
                span=node.call.span,
                expected="a type of samples, such as `f32[sample]`",
                found=", ".join(map(str, self.output_types(node))),
            )

    def argument(self, node: Node, arg: FieldArg, param: FieldParam | None) -> bool:
        """Whether the argument's type is known and right."""
        info = self.fields.get(arg.name)
        if info is None or param is None:
            return False
        self.conditional(node, arg, param)
        if any(_accepts(want, info.type, node) for want in param.types):
            return True
        wanted = " or ".join(str(t) for t in param.types)
        producer = self.graph.producer_of.get(arg.name)
        labels = (
            (Label(span=producer.span, message=f"`{arg.name}` is written here"),) if producer and producer.span else ()
        )
        self.found.error(
            "RL0301",
            f"`{arg.name}` has the wrong type for `{param.name}` of `{node.call.function or node.call.method}`",
            span=arg.span or node.call.span,
            expected=wanted,
            found=str(info.type),
            labels=labels,
        )
        return True

    def conditional(self, node: Node, arg: FieldArg, param: FieldParam) -> None:
        """RL0307 when the field may be missing and the reader does not say that it can do without."""
        producer = self.graph.producer_of.get(arg.name)
        if producer is None or producer.when is None or _implies(node.when, producer.when):
            return
        if not arg.optional:
            self.found.error(
                "RL0307",
                f"`{arg.name}` is only there when `{producer.id}` runs",
                span=arg.span or node.call.span,
                fix=f"write `{arg.name}?`, or give this node the same condition",
            )
        elif not param.optional:
            name = node.call.function or node.call.method
            self.found.error("RL0307", f"`{name}` cannot do without `{param.name}`", span=arg.span or node.call.span)

    def lineage(self, node: Node) -> str | None:
        """The rollout whose samples the arguments are rows of; RL0310 when they are of several."""
        seen: dict[str, FieldArg] = {}
        for arg in node.call.args:
            info = self.fields.get(arg.name)
            if info is not None and info.lineage is not None:
                seen.setdefault(info.lineage, arg)
        if len(seen) > 1:
            shown = ", ".join(f"`{a.name}` of `{rollout}`" for rollout, a in seen.items())
            self.found.error("RL0310", f"these are rows of different rollouts: {shown}", span=node.call.span)
        return next(iter(seen), None)

    def model_kind(self, node: Node) -> None:
        model = self.graph.model_of.get(node.call.model or "")
        if model is None or node.call.method is None:
            return
        spec = METHODS[node.call.method]
        if model.kind not in spec.kinds:
            self.found.error(
                "RL0308",
                f"`{model.name}` is a {model.kind} model: it has no `{node.call.method}`",
                span=node.call.span,
                expected=" or ".join(f"a {k} model" for k in spec.kinds),
                found=f"a {model.kind} model",
            )
        if node.call.method is Method.TRAIN and model.frozen:
            labels = (Label(span=model.span, message="declared frozen here"),) if model.span else ()
            self.found.error(
                "RL0309",
                f"`{model.name}` is frozen and cannot be trained",
                span=node.call.span,
                labels=labels,
            )


def _accepts(want: FieldType, have: FieldType, node: Node) -> bool:
    if want == have:
        return True
    # Functions may read a prompt's column beside the samples': the row is repeated. Models may not.
    broadcast = node.call.method is None or node.call.method is Method.TRAIN
    same = want.dtype == have.dtype and want.axes[1:] == have.axes[1:]
    return broadcast and same and want.unit == SAMPLE and have.unit == PROMPT


def _implies(condition: Expr | None, other: Expr) -> bool:
    """Whether `condition` is `other` or a conjunction that contains it."""
    if condition == other:
        return True
    if not isinstance(condition, Binary) or condition.op != "and":
        return False
    return _implies(condition.left, other) or _implies(condition.right, other)
