"""Old log-probs that the training step computes anyway are not computed twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import Call, FieldArg, Method, Module, Node, changed
from rldsl.compiler.ops import Reason
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of, optimiser_steps, option_of
from rldsl.compiler.passes.check_counts import batch_of
from rldsl.compiler.passes.infer_edges import trunk_of
from rldsl.compiler.passes.unroll_loops import is_take
from rldsl.compiler.plan import Dropped


@dataclass(frozen=True, kw_only=True)
class ElideOldLogp:
    """Let a loss take the running step's own log-probs, detached, where they must equal the old ones.

    Sound exactly when the training node takes one optimiser step on each batch, on the same tokens, mask and
    temperature, and is the first to train that model: then the weights of both passes are the same.
    Before: `old = actor.logprob(tokens, response_mask) -> old_logp`, then `actor.train policy_loss(..., old_logp)`
    After:  `actor.train policy_loss(..., current)`; `old` is left to dead-node elimination.
    """

    name: ClassVar[str] = "elide_old_logp"

    def apply(self, module: Module, context: Context) -> Module:
        """Training nodes with `current` arguments."""
        dropped: list[Dropped] = []
        nodes = tuple(self._node(n, module, dropped) for n in module.graph.nodes)
        graph = module.graph.with_nodes(nodes)
        return replace(module, graph=graph, dropped=module.dropped + tuple(dropped))

    def _node(self, node: Node, module: Module, dropped: list[Dropped]) -> Node:
        if node.call.method is not Method.TRAIN or not _first_and_only_step(node, module):
            return node
        why = f"`{node.id}` takes one optimiser step a batch, so the policy's log-probs are still the old ones"
        elided = [a for a in node.call.args if _recomputed(a, node.call, module)]
        dropped += [Dropped(what=f"{node.id}.{a.param}", by=self.name, why=why) for a in elided]
        args = tuple(changed(a, current=True) if a in elided else a for a in node.call.args)
        reasons = tuple(Reason(by=self.name, why=f"{why}: `{a.name}` is not read") for a in elided)
        return changed(node, call=changed(node.call, args=args), because=(*node.because, *reasons))


def _first_and_only_step(node: Node, module: Module) -> bool:
    trunk = trunk_of(node.call.model or "", module.graph)
    trainers = (n for n in module.graph.nodes if n.call.method is Method.TRAIN)
    first = next(n for n in trainers if trunk_of(n.call.model or "", module.graph) == trunk)
    return first.id == node.id and optimiser_steps(node.call, batch_of(module, node)) == 1


def _recomputed(arg: FieldArg, training: Call, module: Module) -> bool:
    producer = module.graph.producer_of.get(arg.name)
    if producer is None or producer.call.method is not Method.LOGPROB or producer.call.model != training.model:
        return False
    same_rows = [a.name for a in producer.call.args] == [a.name for a in training.args[:2]]
    return same_rows and temperature_of(producer.call, module) == temperature_of(training, module)


def temperature_of(call: Call, module: Module) -> float:
    """As stated, or that of the rollout whose tokens these are: log-probs of two temperatures do not compare."""
    if option_of(call, "temperature") is not None:
        return float(number_of(call, "temperature"))
    rollout = _rollout_of(call.args[0].name, module)
    stated = float(number_of(rollout.call, "temperature")) if rollout else 1.0
    # Greedy decoding has no distribution of its own; its tokens are judged at temperature 1.
    return stated if stated > 0 else 1.0


def _rollout_of(tokens: str, module: Module) -> Node | None:
    """The node that sampled these tokens: of a dialogue the first, of what a loop collects that of its iterations.

    Not the lineage: rows that answer samples of another rollout have the ids of those, and tokens of their own.
    """
    graph, name = module.graph, tokens
    while (producer := graph.producer_of.get(name)) is not None and producer.call.method is not Method.GENERATE:
        if is_take(producer):
            collecting = graph.node_of.get(f"{producer.id}.1.collect")
            name = collecting.call.args[1 + producer.outputs.index(name)].name if collecting else ""
            continue
        read = [a.name for a in producer.call.args if not a.absent and a.name in module.fields]
        ragged = (n for n in read if module.fields[n].type.ragged)
        name = next(ragged, "")
    return producer
