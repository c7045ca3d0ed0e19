"""The plan's nodes as the views need them: one record a node, ordered, with its layer in the graph."""

from __future__ import annotations

from dataclasses import dataclass

from rldsl.compiler.plan import AnyOp, ComputeOp, GenerateOp, InferOp, LoadOp, Plan, TrainOp
from rldsl.types import NodeType, Role

INPUT = "INPUT"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node: who it is, what it does (`call`, such as `actor.generate`), what it reads and writes.

    Input rows have the role INPUT and no type.
    """

    id: str
    role: str
    type: str
    call: str
    model: str | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    depth: int


def nodes_of(plan: Plan) -> tuple[NodeView, ...]:
    """Every node of the plan and one for each source of input rows, in program order."""
    depths: dict[str, int] = {}
    found = []
    for op in plan.ops():
        if not isinstance(op, (LoadOp, GenerateOp, InferOp, ComputeOp, TrainOp)):
            continue
        depth = 1 + max((depths[name] for name in op.reads if name in depths), default=-1)
        depths.update(dict.fromkeys(op.writes, depth))
        found.append(_node(plan, op, depth))
    return tuple(found)


def layers_of(nodes: tuple[NodeView, ...]) -> tuple[tuple[NodeView, ...], ...]:
    """Nodes grouped by depth: those of one layer wait for nothing from each other."""
    depths = sorted({n.depth for n in nodes})
    return tuple(tuple(n for n in nodes if n.depth == depth) for depth in depths)


def edges_of(nodes: tuple[NodeView, ...]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(writer, reader, fields) for every pair of nodes between which fields flow, in program order."""
    writer = {field: node.id for node in nodes for field in node.writes}
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        for field in node.reads:
            if field in writer:
                found.setdefault((writer[field], node.id), []).append(field)
    return tuple((a, b, tuple(fields)) for (a, b), fields in found.items())


def _node(plan: Plan, op: LoadOp | GenerateOp | InferOp | ComputeOp | TrainOp, depth: int) -> NodeView:
    name = op.node or op.id
    model = None if isinstance(op, (LoadOp, ComputeOp)) else op.model
    return NodeView(
        id=name,
        role=INPUT if isinstance(op, LoadOp) else plan.roles.get(name) or _usual_role(plan, model),
        type="" if isinstance(op, LoadOp) else _type(op).value,
        call=call_of(op),
        model=model,
        reads=tuple(dict.fromkeys(op.reads)),
        writes=op.writes,
        depth=depth,
    )


def _type(op: AnyOp) -> NodeType:
    if isinstance(op, TrainOp):
        return NodeType.MODEL_TRAIN
    return NodeType.COMPUTE if isinstance(op, ComputeOp) else NodeType.MODEL_INFERENCE


def _usual_role(plan: Plan, model: str | None) -> str:
    """The role of a node that was given none: from its model's kind."""
    if model is None:
        return NodeType.COMPUTE.value
    spec = plan.model(model)
    if spec.kind == "value":
        return Role.CRITIC.value
    return Role.ACTOR.value if spec.trainable else Role.REFERENCE.value


def call_of(op: LoadOp | GenerateOp | InferOp | ComputeOp | TrainOp) -> str:
    """What the node calls, as in the source: `actor.generate`, `compute gae`, `actor.train policy_loss`."""
    if isinstance(op, LoadOp):
        return op.source.kind
    if isinstance(op, GenerateOp):
        return f"{op.model}.generate"
    if isinstance(op, InferOp):
        return f"{op.model}.{op.method}"
    return f"{op.model}.train {op.loss}" if isinstance(op, TrainOp) else f"compute {op.function}"
