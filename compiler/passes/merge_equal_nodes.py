"""What two nodes would compute alike is computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import FieldArg, FieldInfo, Method, Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of
from rldsl.compiler.passes.infer_edges import edges_of
from rldsl.compiler.plan import Dropped
from rldsl.types import DType, FieldType

_FORWARDS = frozenset({Method.LOGPROB, Method.VALUE, Method.SCORE})


@dataclass(frozen=True, kw_only=True)
class MergeEqualNodes:
    """Let the readers of a node that repeats another read the other's fields.

    Merged are forward passes of one model, greedy rollouts and shipped functions, all without randomness or other
    effects; a user's function may have them. All run with the weights that the step began with. Nothing is merged
    whose mean would be missed in the log, or that a written row names.
    Before: `old = actor.logprob(tokens, mask) -> old_logp`, `again = actor.logprob(tokens, mask) -> logp`
    After:  `old` alone, read by the readers of both.
    """

    name: ClassVar[str] = "merge_equal_nodes"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph without repeated nodes."""
        graph = module.graph
        written = {f for n in graph.nodes if n.call.method is Method.OUTPUT for f in n.reads}
        first: dict[object, Node] = {}
        renamed: dict[str, str] = {}
        kept: dict[str, Node] = {}
        dropped: list[Dropped] = []
        for node_id in graph.in_order:
            node = _reading(graph.node_of[node_id], renamed)
            key = _key(node)
            same = first.setdefault(key, node) if _may_merge(node, module, written) else node
            if same is node or len(same.outputs) < len(node.outputs):
                kept[node.id] = node
                continue
            renamed |= {node.id: same.id, **dict(zip(node.outputs, same.outputs, strict=False))}
            dropped.append(Dropped(what=node.id, by=self.name, why=f"`{same.id}` computes the same"))
            kept[same.id] = _doing(kept[same.id], node.id)
        if not renamed:
            return module
        nodes = tuple(_after(kept[n.id], renamed) for n in graph.nodes if n.id in kept)
        made = replace(graph, nodes=nodes)
        fields = {f: _info(i, renamed) for f, i in module.fields.items() if f not in renamed}
        made = replace(made, edges=edges_of(made))
        return replace(module, graph=made, fields=fields, dropped=module.dropped + tuple(dropped))


def _doing(node: Node, other: str) -> Node:
    """The node that is left says for whom it also works."""
    reason = Reason(by=MergeEqualNodes.name, why=f"`{other}` would compute the same, so its readers read this one")
    return changed(node, because=(*node.because, reason))


def _may_merge(node: Node, module: Module, written: set[str]) -> bool:
    if node.when is not None or not node.outputs or written.intersection(node.outputs):
        return False
    logged = FieldType(DType.F32, ("sample",)), FieldType(DType.F32, ("prompt",))
    if any(module.fields[f].type in logged for f in node.outputs if f in module.fields):
        return False
    if node.call.method is Method.GENERATE:
        return number_of(node.call, "temperature") == 0
    if node.call.method is None:
        return module.signatures[node.call.function or ""].module is not None
    return node.call.method in _FORWARDS


def _key(node: Node) -> object:
    """Equal for nodes that do the same, in the same steps."""
    call = node.call
    args = tuple((a.param or a.name, a.name, a.absent) for a in call.args)
    settings = frozenset((k.name, k.value) for k in (*call.keywords, *call.options))
    return call.model, call.method, call.function, args, settings, node.block, node.round


def _reading(node: Node, renamed: dict[str, str]) -> Node:
    if renamed.keys().isdisjoint(node.reads):
        return node
    args = tuple(_arg(a, renamed) for a in node.call.args)
    return changed(node, call=changed(node.call, args=args))


def _arg(arg: FieldArg, renamed: dict[str, str]) -> FieldArg:
    return changed(arg, name=renamed[arg.name]) if arg.name in renamed else arg


def _after(node: Node, renamed: dict[str, str]) -> Node:
    if renamed.keys().isdisjoint(node.after):
        return node
    return changed(node, after=tuple(dict.fromkeys(renamed.get(n, n) for n in node.after)))


def _info(info: FieldInfo, renamed: dict[str, str]) -> FieldInfo:
    """Samples of a rollout that was merged are those of the rollout that is left."""
    return changed(info, lineage=renamed.get(info.lineage or "", info.lineage))
