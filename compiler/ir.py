"""The graph that both front ends make and every pass rewrites.

Everything is frozen; spans take no part in equality, so that a `.rl` file and its Python twin compare equal.
`Graph.in_order` is the order in which passes walk it, `Graph.dag()` its networkx form.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rldsl.compiler.dag import in_order
from rldsl.compiler.expr import Expr
from rldsl.compiler.frozen import Frozen
from rldsl.compiler.ops import AnyOp, Reason, Scalar
from rldsl.compiler.plan import Dropped, Group, MemoryPlan, PhaseSpec, Program
from rldsl.compiler.signature import Signature
from rldsl.diagnostics import Span
from rldsl.types import FieldType, NodeType

if TYPE_CHECKING:
    import networkx as nx


changed = msgspec.structs.replace
"""A part of a graph with other values of some names; what it keeps beside its fields is left behind."""


class ModelKind(StrEnum):
    """What a model's head gives: next-token log-probs, one number a token, or one number a sample."""

    POLICY = "policy"
    VALUE = "value"
    REWARD = "reward"


class Method(StrEnum):
    """What can be asked of a model; and, last, what the language itself does with fields."""

    GENERATE = "generate"
    EXTEND = "extend"
    LOGPROB = "logprob"
    VALUE = "value"
    SCORE = "score"
    TRAIN = "train"
    METRIC = "metric"
    OUTPUT = "output"
    COLLECT = "collect"


SINKS = frozenset({Method.METRIC, Method.OUTPUT})
"""What a run leaves behind besides trained weights: their nodes write no field and are never dead."""

BUILT_IN = SINKS | {Method.COLLECT}
"""Methods that no model has: statements of the language."""


class AnyName(frozenset[str]):
    """The names of what could not be read at all: any name may be among them."""

    def __contains__(self, name: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True

    def __or__(self, other: object) -> AnyName:
        return self

    __ror__ = __or__


ANY_NAME = AnyName()


class BlockKind(StrEnum):
    """What a block does with its body: repeat it within a bound, or run it in some steps only."""

    LOOP = "loop"
    VALIDATE = "validate"


class ParamType(StrEnum):
    """Type of a hyper-parameter."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"


class Keyword(Frozen, frozen=True, kw_only=True):
    """`name = value` in a call."""

    name: str
    value: Expr
    span: Span | None = None


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which values a parameter may have: an interval, None where it has no end, or a list of choices."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    choices: tuple[Scalar, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Param:
    """A hyper-parameter with type and default; `unit` as in `64 prompts`, `range` as in `in [0, 1)`."""

    name: str
    type: ParamType
    default: Scalar
    unit: str | None = None
    range: Range | None = None
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
    """Named weights: from a source, a copy of another model (frozen or trained on its own), or a head on one.

    `shares` names the model whose trunk it uses: one set of weights below two heads. `options` are those of LoRA.
    `origin_span` is where another model is named.
    """

    name: str
    kind: ModelKind
    source: SourceCall | None = None
    copy_of: str | None = None
    shares: str | None = None
    frozen: bool = False
    options: tuple[Keyword, ...] = ()
    span: Span | None = field(default=None, compare=False)
    origin_span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Input:
    """Fields read from one data source, and how many prompts a step takes from it."""

    names: tuple[str, ...]
    type: FieldType
    source: SourceCall
    batch: Expr
    block: str | None = None
    round: int = 0
    span: Span | None = field(default=None, compare=False)


class FieldArg(Frozen, frozen=True, kw_only=True):
    """A field handed to a call. `optional` (written `?`): absent when its producer is.

    `param` is the function's parameter it binds to, once names are resolved; `current` replaces the
    field by the policy's own log-probs of the running step (see `elide_old_logp`). `written` is what the user calls
    the field, where a block gave it another name.
    """

    name: str
    written: str | None = None
    optional: bool = False
    param: str | None = None
    absent: bool = False
    current: bool = False
    span: Span | None = None


class Call(Frozen, frozen=True, kw_only=True, dict=True):
    """What a node does: a method of a model, a function, or (to train) both; or a statement of the language.

    A metric has its reduction (`mean`) as `function`.
    """

    model: str | None = None
    method: Method | None = None
    function: str | None = None
    args: tuple[FieldArg, ...] = ()
    keywords: tuple[Keyword, ...] = ()
    options: tuple[Keyword, ...] = ()
    span: Span | None = None

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Fields read, each once, in order."""
        return tuple(dict.fromkeys([a.name for a in self.args if not (a.absent or a.current)]))


class Node(Frozen, frozen=True, kw_only=True):
    """One step of the graph. `stated_type` is what the user says its type is; `block` where it stands.

    Of a node in an unrolled loop `round` is the iteration, from 1.
    """

    id: str
    call: Call
    outputs: tuple[str, ...] = ()
    role: str | None = None
    stated_type: NodeType | None = None
    block: str | None = None
    round: int = 0
    when: Expr | None = None
    after: tuple[str, ...] = ()
    skip_where_zero: str | None = None
    because: tuple[Reason, ...] = ()
    span: Span | None = None
    after_spans: tuple[Span, ...] = ()

    @property
    def type(self) -> NodeType:
        """What kind of work it is."""
        if self.call.method is Method.TRAIN:
            return NodeType.MODEL_TRAIN
        if self.call.method is None or self.call.method in BUILT_IN:
            return NodeType.COMPUTE
        return NodeType.MODEL_INFERENCE

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields read, each once, in order."""
        return self.call.reads


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the graph with names of its own, which runs as `kind` says.

    A loop runs its body at most `bound` times. Either it carries fields: each names one from outside, which the body
    reads as it stands and writes anew for the next iteration, and which means the last value after the loop. Or it
    collects fields: each iteration works on fresh prompts, and those where the field `where` holds are kept, until
    there are `until` prompts, by default as many as the inputs' batch. A validation runs in every `bound`-th step and
    trains nothing. `flatten_blocks` moves `inputs` and `nodes` into the graph; then `carry` and `collect` name the
    fields of the flat graph, and `param` what they are called outside.
    """

    id: str
    kind: BlockKind
    bound: Expr
    carry: tuple[FieldArg, ...] = ()
    collect: tuple[FieldArg, ...] = ()
    where: FieldArg | None = None
    until: Expr | None = None
    inputs: tuple[Input, ...] = ()
    nodes: tuple[Node, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class PhaseLayout:
    """`actor.generate : hf(dp = 2) on 4..5`: `ranks` are the first and the last."""

    model: str
    phase: str
    engine: str
    axes: tuple[Keyword, ...] = ()
    ranks: tuple[int, int] | None = None
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Place:
    """`reward on 4..7`: the first and the last rank that run a node without a model."""

    node: str
    ranks: tuple[int, int]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """Cluster and layouts, apart from the algorithm; `figures` are the user's own of the hardware."""

    count: int | None = None
    cluster: str | None = None
    figures: tuple[Keyword, ...] = ()
    layouts: tuple[PhaseLayout, ...] = ()
    places: tuple[Place, ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Use:
    """`use "my_rewards.py"`: a file of the user's functions, relative to the source."""

    path: str
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Import:
    """`import "base.rl"`: its declarations stand before those of this file. The front end reads it."""

    path: str
    span: Span | None = field(default=None, compare=False)


class EdgeKind(StrEnum):
    """Why a node waits for another."""

    FIELD = "field"
    ROWS = "rows"
    WEIGHTS = "weights"
    ORDER = "after"


class Edge(NamedTuple):
    """`target` waits for `source`. `carries` names the field, or the model whose weights change after `source`."""

    source: str
    target: str
    kind: EdgeKind
    carries: str = ""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An algorithm. `edges` is empty until names are resolved.

    `poisoned` are the names in statements that could not be parsed: whether they are defined is not known.
    """

    name: str
    params: tuple[Param, ...] = ()
    models: tuple[Model, ...] = ()
    inputs: tuple[Input, ...] = ()
    uses: tuple[Use, ...] = ()
    imports: tuple[Import, ...] = ()
    nodes: tuple[Node, ...] = ()
    blocks: tuple[Block, ...] = ()
    deploy: Deploy | None = None
    edges: tuple[Edge, ...] = ()
    poisoned: frozenset[str] = field(default=frozenset(), compare=False)
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
    def block_of(self) -> Mapping[str, Block]:
        """Blocks by id."""
        return {b.id: b for b in self.blocks}

    @cached_property
    def input_of(self) -> Mapping[str, Input]:
        """The input statement of each input field."""
        return {name: i for i in self.inputs for name in i.names}

    @cached_property
    def in_order(self) -> tuple[str, ...]:
        """Ids, each behind all that it waits for, else as written; without those on a circle of edges or behind one."""
        return in_order(self.node_of, ((e.source, e.target) for e in self.edges))

    @property
    def spans(self) -> dict[str, Span | None]:
        """Where each parameter, model, input field, block and node is declared; a node's name hides a field's."""
        found = {p.name: p.span for p in self.params} | {m.name: m.span for m in self.models}
        found |= {name: i.span for i in self.inputs for name in i.names} | {b.id: b.span for b in self.blocks}
        found |= {f"{b.id}.{name}": i.span for b in self.blocks for i in b.inputs for name in i.names}
        found |= {n.id: n.span for n in self.nodes}
        return found | {f"{b.id}.{n.id}": n.span for b in self.blocks for n in b.nodes}

    @property
    def has_cycle(self) -> bool:
        """Whether some nodes wait for each other."""
        return len(self.in_order) < len(self.node_of)

    def dag(self) -> nx.DiGraph[str]:
        """The nodes in source order, and the edges."""
        import networkx as nx

        dag: nx.DiGraph[str] = nx.DiGraph()
        dag.add_nodes_from(n.id for n in self.nodes)
        for edge in self.edges:
            dag.add_edge(edge.source, edge.target)
        return dag

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        """The same graph with other nodes, and only the edges between them."""
        if len(nodes) == len(self.nodes) and all(map(operator.is_, nodes, self.nodes)):
            return self
        if [n.id for n in nodes] == [n.id for n in self.nodes]:
            return self._ordered_alike(replace(self, nodes=nodes))
        ids = {n.id for n in nodes}
        edges = tuple(e for e in self.edges if e.source in ids and e.target in ids)
        return replace(self, nodes=nodes, edges=edges)

    def with_edges(self, edges: tuple[Edge, ...]) -> Graph:
        """The same graph with other edges."""
        return self if edges == self.edges else replace(self, edges=edges)

    def with_values(self, models: tuple[Model, ...], inputs: tuple[Input, ...], blocks: tuple[Block, ...]) -> Graph:
        """The same graph with other models, inputs and blocks, of the same names."""
        return self._ordered_alike(replace(self, models=models, inputs=inputs, blocks=blocks))

    def _ordered_alike(self, other: Graph) -> Graph:
        """`other`, whose order depends on no more than ids and edges, which are those of this graph."""
        if "in_order" in self.__dict__:
            other.__dict__["in_order"] = self.in_order
        return other


class FieldInfo(Frozen, frozen=True, kw_only=True):
    """What is known of a field: type, who makes it, which rows it has and how many each prompt has.

    `prompts` names the set of prompts that the rows belong to: None for those of the step, else the block that reads
    or keeps its own. `lineage` is the rollout that made its samples, None for prompt rows. Rows of two sets, or of two
    rollouts, do not align. Of a set that a filter made there may be fewer than `batch` prompts.
    """

    type: FieldType
    producer: str
    prompts: str | None = None
    lineage: str | None = None
    per_prompt: int = 1


@dataclass(frozen=True, kw_only=True)
class Module:
    """What the passes hand on: the graph and all that has been learnt or decided about it so far.

    `batches` says how many prompts each set of prompts has, at most, in a step.
    `origins` holds, for each model, the one whose source its weights come from: itself, or what it copies.
    """

    graph: Graph
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    origins: Mapping[str, Model] = field(default_factory=dict)
    values: Mapping[str, Scalar] = field(default_factory=dict)
    fields: Mapping[str, FieldInfo] = field(default_factory=dict)
    batches: Mapping[str | None, int] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    world_size: int | None = None
    divides: int = 1
    groups: tuple[Group, ...] = ()
    phases: tuple[PhaseSpec, ...] = ()
    placement: Mapping[str, str] = field(default_factory=dict)
    ops: tuple[AnyOp, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    programs: tuple[Program, ...] = ()
    memory: MemoryPlan | None = None
