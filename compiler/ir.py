"""The graph that both front ends make and every pass rewrites.

Everything is frozen; spans take no part in equality, so that a `.rl` file and its Python twin compare equal.
`Graph.dag()` is the networkx view that passes walk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

import networkx as nx

from rldsl.compiler.expr import Expr
from rldsl.compiler.plan import AnyOp, Dropped, Group, Program, Scalar
from rldsl.compiler.signature import Signature
from rldsl.diagnostics import Span
from rldsl.types import FieldType, NodeType


class ModelKind(StrEnum):
    """What a model's head gives: next-token log-probs, or one number a token."""

    POLICY = "policy"
    VALUE = "value"


class Method(StrEnum):
    """What can be asked of a model."""

    GENERATE = "generate"
    LOGPROB = "logprob"
    VALUE = "value"
    TRAIN = "train"


class ParamType(StrEnum):
    """Type of a hyper-parameter."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"


@dataclass(frozen=True, kw_only=True)
class Keyword:
    """`name = value` in a call."""

    name: str
    value: Expr
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Param:
    """A hyper-parameter with type and default; `unit` as in `64 prompts`."""

    name: str
    type: ParamType
    default: Scalar
    unit: str | None = None
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class SourceCall:
    """Where weights or rows come from: `hf(model)`, `jsonl("train.jsonl")`."""

    kind: str
    args: tuple[Expr, ...] = ()
    keywords: tuple[Keyword, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Named weights: from a source, or a copy of another model, frozen or trained on its own."""

    name: str
    kind: ModelKind
    source: SourceCall | None = None
    copy_of: str | None = None
    frozen: bool = False
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Input:
    """Fields read from one data source, and how many prompts a step takes from it."""

    names: tuple[str, ...]
    type: FieldType
    source: SourceCall
    batch: Expr
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class FieldArg:
    """A field handed to a call. `optional` (written `?`): absent when its producer is.

    `param` is the function's parameter it binds to, once names are resolved; `current` replaces the
    field by the policy's own log-probs of the running step (see `elide_old_logp`).
    """

    name: str
    optional: bool = False
    param: str | None = None
    absent: bool = False
    current: bool = False
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a node does: a method of a model, a function, or (to train) both."""

    model: str | None = None
    method: Method | None = None
    function: str | None = None
    args: tuple[FieldArg, ...] = ()
    keywords: tuple[Keyword, ...] = ()
    options: tuple[Keyword, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One step of the graph."""

    id: str
    call: Call
    outputs: tuple[str, ...] = ()
    role: str | None = None
    when: Expr | None = None
    after: tuple[str, ...] = ()
    skip_where_zero: str | None = None
    because: tuple[str, ...] = ()
    span: Span | None = field(default=None, compare=False)

    @property
    def type(self) -> NodeType:
        """What kind of work it is."""
        if self.call.method is Method.TRAIN:
            return NodeType.MODEL_TRAIN
        return NodeType.COMPUTE if self.call.method is None else NodeType.MODEL_INFERENCE

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields read, each once, in order."""
        return tuple(dict.fromkeys(a.name for a in self.call.args if not (a.absent or a.current)))


@dataclass(frozen=True, kw_only=True)
class PhaseLayout:
    """`actor.generate : hf(dp = 2)`."""

    model: str
    phase: str
    engine: str
    axes: tuple[Keyword, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """Cluster and layouts, apart from the algorithm."""

    count: int | None = None
    cluster: str | None = None
    layouts: tuple[PhaseLayout, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Use:
    """`use "my_rewards.py"`: a file of the user's functions, relative to the source."""

    path: str
    span: Span | None = field(default=None, compare=False)


class EdgeKind(StrEnum):
    """Why a node waits for another."""

    FIELD = "field"
    WEIGHTS = "weights"
    ORDER = "after"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """`target` waits for `source`. `carries` names the field, or the model whose weights change after `source`."""

    source: str
    target: str
    kind: EdgeKind
    carries: str = ""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An algorithm. `edges` is empty until names are resolved."""

    name: str
    params: tuple[Param, ...] = ()
    models: tuple[Model, ...] = ()
    inputs: tuple[Input, ...] = ()
    uses: tuple[Use, ...] = ()
    nodes: tuple[Node, ...] = ()
    deploy: Deploy | None = None
    edges: tuple[Edge, ...] = ()
    span: Span | None = field(default=None, compare=False)

    @cached_property
    def node_of(self) -> Mapping[str, Node]:
        """Nodes by id."""
        return {n.id: n for n in self.nodes}

    @cached_property
    def producer_of(self) -> Mapping[str, Node]:
        """The node that writes each field; inputs have none."""
        return {f: n for n in self.nodes for f in n.outputs}

    @cached_property
    def model_of(self) -> Mapping[str, Model]:
        """Models by name."""
        return {m.name: m for m in self.models}

    @cached_property
    def input_of(self) -> Mapping[str, Input]:
        """The input statement of each input field."""
        return {name: i for i in self.inputs for name in i.names}

    def dag(self) -> nx.DiGraph[str]:
        """The nodes in source order, and the edges."""
        dag: nx.DiGraph[str] = nx.DiGraph()
        dag.add_nodes_from(n.id for n in self.nodes)
        for edge in self.edges:
            dag.add_edge(edge.source, edge.target)
        return dag

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        """The same graph with other nodes, and only the edges between them."""
        ids = {n.id for n in nodes}
        edges = tuple(e for e in self.edges if e.source in ids and e.target in ids)
        return replace(self, nodes=nodes, edges=edges)


@dataclass(frozen=True, kw_only=True)
class FieldInfo:
    """What is known of a field: type, who makes it, and how many rows each prompt has.

    `lineage` is the rollout that made its samples, None for prompt rows: rows of two rollouts do not align.
    """

    type: FieldType
    producer: str
    lineage: str | None = None
    per_prompt: int = 1


@dataclass(frozen=True, kw_only=True)
class Module:
    """What the passes hand on: the graph and all that has been learnt or decided about it so far.

    `origins` holds, for each model, the one whose source its weights come from: itself, or what it copies.
    """

    graph: Graph
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    origins: Mapping[str, Model] = field(default_factory=dict)
    values: Mapping[str, Scalar] = field(default_factory=dict)
    fields: Mapping[str, FieldInfo] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    world_size: int | None = None
    divides: int = 1
    groups: tuple[Group, ...] = ()
    placement: Mapping[str, str] = field(default_factory=dict)
    ops: tuple[AnyOp, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    programs: tuple[Program, ...] = ()
