"""The plan: the compiled artefact, its ops, its JSON, its hashes.

Every op kind is one frozen struct, tagged by `op` in the JSON. The JSON Schema in `plan.schema.json` is generated
from these types (`make schema`), and a test compares the two. Unknown keys of a newer minor version are ignored,
an unknown major version is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import msgspec
from msgspec.structs import replace

SCHEMA_MAJOR = 1
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.0"

Scalar = int | float | bool | str | None


class _Struct(msgspec.Struct, frozen=True):
    """Base of everything in a plan."""


class Phase(StrEnum):
    """What a model is doing; each phase has its own engine and layout.

    `infer` is the phase of models that no op trains: the others score with the engine that trains them.
    """

    TRAIN = "train"
    GENERATE = "generate"
    INFER = "infer"


class InferMethod(StrEnum):
    """What a forward pass without gradients returns: f32[sample, token] at response positions; a score f32[sample]."""

    LOGPROB = "logprob"
    VALUE = "value"
    SCORE = "score"


class Aggregate(StrEnum):
    """How a loss f32[sample, token] becomes a number, always by counts over all ranks of the minibatch.

    The mean over tokens; over samples of their means over tokens; over samples of their sums over tokens.
    """

    TOKEN_MEAN = "token_mean"
    SEQUENCE_MEAN = "sequence_mean"
    SEQUENCE_SUM = "sequence_sum"


class Recompute(StrEnum):
    """What of a layer is made again in the backward pass: nothing; all but products and attention; all."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class Reduction(StrEnum):
    """How a field becomes one number of the log, over all rows of all ranks."""

    MEAN = "mean"
    STD = "std"
    MIN = "min"
    MAX = "max"
    SUM = "sum"


class SyncKind(StrEnum):
    """How trained weights reach the generation engine.

    It shares them; it copies them; each of its ranks gathers them, as all hold a part; or one that has gathered them
    sends them to ranks that hold none.
    """

    LOCAL = "local"
    COPY = "copy"
    ALL_GATHER = "all_gather"
    BROADCAST = "broadcast"


class Move(StrEnum):
    """What a reshard is on the wire: nothing, as each rank keeps some of its own rows; to one rank; from one rank to
    many; to ranks that all need the same rows; or from each to each.
    """

    LOCAL = "local"
    GATHER = "gather"
    SCATTER = "scatter"
    BROADCAST = "broadcast"
    ALL_TO_ALL = "all_to_all"


class State(StrEnum):
    """What of a model stays on a rank between ops.

    Its parameters as they are held, masters included; the optimiser's moments and buffers; the rollout engine's own
    whole copy of the weights.
    """

    WEIGHTS = "weights"
    OPTIMIZER = "optimizer"
    ENGINE = "engine"


class Arg(_Struct, frozen=True, kw_only=True):
    """One argument of a function: a field, the current policy's own log-probs, or absent (optional)."""

    param: str
    field: str | None = None
    current: bool = False


class ModelSpec(_Struct, frozen=True, kw_only=True):
    """Named weights. `source` is a path, a hub name or `package:...`; `scratch` builds a small random one.

    `shares` names the model whose trunk this one's head sits on. With `lora_rank` above 0 only low-rank adapters of
    the layers in `lora_targets` are trained, scaled by `lora_alpha` / `lora_rank`.
    """

    name: str
    kind: str
    source: str
    source_args: dict[str, Scalar] = {}
    copy_of: str | None = None
    shares: str | None = None
    trainable: bool = True
    precision: str = "fp32"
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_targets: str = ""


class FieldSpec(_Struct, frozen=True, kw_only=True):
    """A typed column. `type` reads `f32[sample, token]`; `per_prompt` is how many rows each prompt has.

    `layouts` are the groups on which its rows lie, in the order in which they come there. `bytes` are those of all its
    rows in a step, at most, and so what an edge carries that names it: a number by each symbol of `volume`, "1" for
    bytes as such, so that `{"1": 9984, "P": 416}` is 9,984 and 416 for each token of the longest prompt.
    """

    name: str
    type: str
    producer: str
    per_prompt: int = 1
    layouts: tuple[str, ...] = ()
    bytes: dict[str, int] = {}


class FunctionSpec(_Struct, frozen=True, kw_only=True):
    """Where a library or user function lives. `file` is relative to the algorithm's source; None means shipped.

    `modules` has the sha256 of each file that `file` imports from its own folder, by paths like `file`.
    """

    name: str
    module: str | None = None
    file: str | None = None
    sha256: str | None = None
    modules: dict[str, str] = {}
    per_row: bool = False
    reduces: bool = False


class SourceSpec(_Struct, frozen=True, kw_only=True):
    """Where input rows come from: `reasoning_gym`, `jsonl` or `parquet`, with the arguments given."""

    kind: str
    args: dict[str, Scalar] = {}


AXES = ("tp", "cp", "dp", "pp")
"""Parallel axes of a group in the order in which its ranks are numbered, the fastest first, as Megatron has them."""


class Group(_Struct, frozen=True, kw_only=True):
    """Ranks that run something together: from the first of each pair in `ranks` to below the second; none means all.

    The pairs rise and do not touch. Inside the group, ranks are numbered along `AXES`; dp is what the others leave.
    Prompt i of a batch lies, with its samples, on every rank whose dp coordinate is i modulo dp. `ep` ranks of dp and
    cp share the experts of a layer.
    """

    name: str
    ranks: tuple[tuple[int, int], ...] = ()
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1

    @property
    def copies(self) -> int:
        """How many ranks hold the same rows."""
        return self.tp * self.cp * self.pp

    def spans(self, world_size: int) -> tuple[tuple[int, int], ...]:
        """The pairs, also of the group of all ranks."""
        return self.ranks or ((0, world_size),)

    def size(self, world_size: int) -> int:
        """How many ranks there are in it."""
        return sum(last - first for first, last in self.spans(world_size))

    def dp(self, world_size: int) -> int:
        """Over how many ranks the rows of a batch are dealt out."""
        return self.size(world_size) // self.copies

    def layout(self, world_size: int | None) -> tuple[tuple[tuple[int, int], ...], int, int, int]:
        """What decides which rows lie where: two groups with one layout hold the same."""
        ranks = self.ranks if world_size is None else self.spans(world_size)
        return (ranks, self.tp, self.cp, self.pp)

    def index(self, rank: int, world_size: int) -> int | None:
        """The number of `rank` inside the group, None for one outside."""
        before = 0
        for first, last in self.spans(world_size):
            if first <= rank < last:
                return before + rank - first
            before += last - first
        return None

    def holders(self, dp: int, world_size: int) -> list[int]:
        """The ranks that hold the rows of one dp coordinate, of which the first sends them."""
        inner, stride = self.tp * self.cp, self.tp * self.cp * self.dp(world_size)
        indices = (pp * stride + dp * inner + i for pp in range(self.pp) for i in range(inner))
        return [self._rank(index, world_size) for index in indices]

    def _rank(self, index: int, world_size: int) -> int:
        for first, last in self.spans(world_size):
            if index < last - first:
                return first + index
            index -= last - first
        raise AssertionError(f"group `{self.name}` has no rank of that number")

    def coordinates(self, rank: int, world_size: int) -> dict[str, int] | None:
        """Where `rank` lies along each of `AXES`, None for one outside."""
        index = self.index(rank, world_size)
        if index is None:
            return None
        sizes = {"tp": self.tp, "cp": self.cp, "dp": self.dp(world_size), "pp": self.pp}
        made = {}
        for axis in AXES:
            index, made[axis] = divmod(index, sizes[axis])
        return made


class PhaseSpec(_Struct, frozen=True, kw_only=True):
    """What runs a phase of a model, and where."""

    model: str
    phase: Phase
    engine: str
    group: str


class Guard(_Struct, frozen=True, kw_only=True):
    """When an op runs; all ranks decide alike, from what all of them know.

    `every` k > 0: in steps 0, k, 2k, ... and the last. `until`: while that collection is not full.
    """

    every: int = 0
    until: str | None = None


class Reason(_Struct, frozen=True, kw_only=True):
    """Why something is as it is, and the pass that made it so."""

    by: str
    why: str


class Op(_Struct, tag_field="op", frozen=True, kw_only=True):
    """One instruction. `node` is the graph node it came from, `group` the ranks that run it.

    `by` is the pass that made the op, `because` what other passes changed of it, and why.
    """

    id: str
    node: str | None = None
    group: str = "world"
    guard: Guard | None = None
    because: tuple[Reason, ...] = ()
    by: str = "lower_nodes"

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields that must be defined and resident before this op."""
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        """Fields this op defines."""
        return ()

    @property
    def collective(self) -> bool:
        """Whether every rank of `group` must enter this op together."""
        return False


class LoadOp(Op, tag="load", frozen=True, kw_only=True):
    """Read this rank's shard of the next `batch` prompts of the stream `stream`.

    Ops with one stream take turns: `columns` name the fields, `names` the stream's own columns in the same order. Of
    `rounds` batches that a step may read this is number `round`, from 0. `first`: not the next prompts but always the
    first, in the file's order. `prefetch`: once these rows are there, the stream's next ones are read in the
    background, except in the last step.
    """

    source: SourceSpec
    columns: tuple[str, ...]
    batch: int
    stream: str = "load"
    names: tuple[str, ...] = ()
    round: int = 0
    rounds: int = 1
    first: bool = False
    prefetch: bool = False

    @property
    def writes(self) -> tuple[str, ...]:
        """The input fields."""
        return self.columns


class GenerateOp(Op, tag="generate", frozen=True, kw_only=True):
    """Sample `n` responses to each row of `prompts`, prompt rows or (then `n` is 1) sample rows.

    `outputs` maps tokens, response_mask, rollout_logp and completions, those that are wanted, to fields. The weights
    are those that the step began with, or with `staleness` 1 those of the step before. A prompt of more than
    `max_prompt_tokens`, 0 for no limit, ends the run.
    """

    model: str
    prompts: str
    n: int
    max_new_tokens: int
    max_prompt_tokens: int = 0
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    staleness: int = 0
    outputs: dict[str, str]

    @property
    def reads(self) -> tuple[str, ...]:
        """The prompts."""
        return (self.prompts,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs that anything reads."""
        return tuple(self.outputs.values())


class ExtendOp(Op, tag="extend", frozen=True, kw_only=True):
    """Append `observation`'s tokens to each sequence, then sample a further response; rows that are `done` stay.

    The observation's tokens, at most `max_prompt_tokens` (0: no limit), are outside the response mask. `outputs` as
    those of `GenerateOp`: whole sequences, the mask and log-probs of all responses so far, and the text of the last
    response, of a row that is done too.
    """

    model: str
    tokens: str
    response_mask: str
    rollout_logp: str
    observation: str
    done: str | None = None
    max_new_tokens: int
    max_prompt_tokens: int = 0
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    staleness: int = 0
    outputs: dict[str, str]

    @property
    def reads(self) -> tuple[str, ...]:
        """The sequences so far and what is appended."""
        fields = (self.tokens, self.response_mask, self.rollout_logp, self.observation, self.done)
        return tuple(f for f in fields if f is not None)

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs that anything reads."""
        return tuple(self.outputs.values())


class InferHead(_Struct, frozen=True, kw_only=True):
    """A further forward that an `InferOp` does the work of, with what is its own of the fields of one."""

    node: str | None = None
    model: str
    method: InferMethod
    response_mask: str
    output: str
    temperature: float = 1.0


class InferOp(Op, tag="infer", frozen=True, kw_only=True):
    """A forward pass without gradients over `tokens`, evaluated where `response_mask` is set.

    `also` has further forwards over the same tokens, of the same model or of models on its trunk: the layers run once.
    A micro-batch has up to `micro_batch_tokens`, and `logits` of these are made at once; 0 leaves it to the engine.
    """

    model: str
    method: InferMethod
    tokens: str
    response_mask: str
    output: str
    temperature: float = 1.0
    also: tuple[InferHead, ...] = ()
    micro_batch_tokens: int = 0
    logits: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """Tokens and masks."""
        masks = dict.fromkeys((self.response_mask, *(h.response_mask for h in self.also)))
        return (self.tokens, *masks)

    @property
    def writes(self) -> tuple[str, ...]:
        """One field of each forward."""
        return (self.output, *(h.output for h in self.also))

    @property
    def collective(self) -> bool:
        """Sharded weights are gathered layer by layer."""
        return True

    @property
    def parts(self) -> tuple[InferOp, ...]:
        """The forwards that it does the work of, each as one of its own with the id of the whole."""
        if not self.also:
            return (self,)
        own = (
            replace(
                self,
                node=h.node,
                model=h.model,
                method=h.method,
                response_mask=h.response_mask,
                output=h.output,
                temperature=h.temperature,
                also=(),
            )
            for h in self.also
        )
        return (replace(self, also=()), *own)


class ComputeOp(Op, tag="compute", frozen=True, kw_only=True):
    """Call a function on fields.

    In the `background` it only begins here, on a thread of its rank that calls one function after the other: what it
    writes is there after the `WaitOp` that names it, and what it reads must stay until then.
    """

    function: str
    args: tuple[Arg, ...]
    params: dict[str, Scalar] = {}
    outputs: tuple[str | None, ...]
    per_prompt: int = 1
    reduces: bool = False
    background: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields among the arguments."""
        return tuple(a.field for a in self.args if a.field is not None)

    @property
    def writes(self) -> tuple[str, ...]:
        """The function's results; None in `outputs` stands for one that nothing reads."""
        return tuple(o for o in self.outputs if o is not None)

    @property
    def collective(self) -> bool:
        """Only a function that sums over ranks."""
        return self.reduces


class WaitOp(Op, tag="wait", frozen=True, kw_only=True):
    """Wait for the op `compute`, which runs in the background; its results become fields, and its error is raised.

    `holds` are the fields that it reads.
    """

    compute: str
    holds: tuple[str, ...]
    by: str = "overlap_computes"

    @property
    def reads(self) -> tuple[str, ...]:
        """What must be resident until here."""
        return self.holds


class TrainOp(Op, tag="train", frozen=True, kw_only=True):
    """Forward, loss, backward, optimiser step: `epochs` times over the batch, `minibatch` prompts a step.

    `batch` is how many prompts the rows are of, all ranks together; after a filter there may be fewer. A micro-batch
    has up to `micro_batch_tokens`, and `logits` numbers of logits are made at once; 0 leaves it to the engine.
    """

    model: str
    tokens: str
    response_mask: str
    loss: str
    args: tuple[Arg, ...]
    params: dict[str, Scalar] = {}
    aggregate: Aggregate = Aggregate.TOKEN_MEAN
    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float = 1.0
    epochs: int = 1
    batch: int
    minibatch: int
    micro_batch_tokens: int = 0
    recompute: Recompute = Recompute.NONE
    logits: int = 0
    temperature: float = 1.0
    skip_where_zero: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Tokens, mask and the fields among the loss's arguments."""
        return (self.tokens, self.response_mask, *(a.field for a in self.args if a.field is not None))

    @property
    def collective(self) -> bool:
        """Gradients are summed over ranks."""
        return True


class ReshardOp(Op, tag="reshard", frozen=True, kw_only=True):
    """Give rows of `batch` prompts, which lie as the group `source` has them, the layout of `target`.

    Both lie in the group of the op. Of ranks that hold the same rows the first sends them. Rows of the fields in
    `keeps` stay at the source as well: a rank that is in both groups then holds them twice.
    """

    fields: tuple[str, ...]
    source: str
    target: str
    batch: int
    keeps: tuple[str, ...] = ()
    kind: Move = Move.ALL_TO_ALL
    by: str = "lower_reshards"

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields moved."""
        return self.fields

    @property
    def writes(self) -> tuple[str, ...]:
        """The same fields, in the new layout."""
        return self.fields

    @property
    def collective(self) -> bool:
        """Unless nothing is sent."""
        return self.kind is not Move.LOCAL


class SyncWeightsOp(Op, tag="sync_weights", frozen=True, kw_only=True):
    """Give the generation engine of `model`, on the group `target`, the weights as trained so far on `source`.

    Both lie in the group of the op. Rollouts of each `staleness` have an engine of their own; one with staleness 1
    keeps weights of its own, and its transfer follows the rollout.
    """

    model: str
    sync: SyncKind
    source: str = "world"
    target: str = "world"
    staleness: int = 0
    by: str = "lower_weights"

    @property
    def collective(self) -> bool:
        """Unless the two phases share this rank's memory."""
        return self.sync in (SyncKind.ALL_GATHER, SyncKind.BROADCAST)


class CollectOp(Op, tag="collect", frozen=True, kw_only=True):
    """Keep the rows of the prompts for which `where` bool[prompt] holds, in the collection `into`.

    `fields` maps the fields to those that `TakeOp` will write. All ranks learn how many prompts the collection has;
    it is full when it has `batch`.
    """

    into: str
    where: str
    fields: dict[str, str]
    batch: int

    @property
    def reads(self) -> tuple[str, ...]:
        """The filter and what it filters."""
        return (self.where, *self.fields)

    @property
    def collective(self) -> bool:
        """All ranks count together."""
        return True


class TakeOp(Op, tag="take", frozen=True, kw_only=True):
    """Write the first `batch` prompts of the collection, in the order of collecting, numbered anew from 0.

    They lie as freshly loaded prompts do. There may be fewer.
    """

    collection: str
    outputs: tuple[str, ...]
    batch: int

    @property
    def writes(self) -> tuple[str, ...]:
        """The collected fields that anything reads."""
        return self.outputs

    @property
    def collective(self) -> bool:
        """An all-to-all brings the rows to their ranks."""
        return True


class MetricOp(Op, tag="metric", frozen=True, kw_only=True):
    """One number of the step's log: `field` reduced over all rows, or all tokens where `mask` is set."""

    name: str
    reduction: Reduction
    field: str
    mask: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The field and its mask."""
        return (self.field,) if self.mask is None else (self.field, self.mask)


class OutputOp(Op, tag="output", frozen=True, kw_only=True):
    """Append this rank's rows of some fields to `outputs/<name>-<rank>.jsonl` in the run folder."""

    name: str
    fields: tuple[str, ...]
    per_prompt: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields."""
        return self.fields


class FreeOp(Op, tag="free", frozen=True, kw_only=True):
    """Nothing later reads these fields: drop them."""

    fields: tuple[str, ...]
    by: str = "insert_frees"


class SaveOp(Op, tag="save", frozen=True, kw_only=True):
    """Write `model` in Hugging Face format to `path` in the run folder, at the end and every `every` steps (0: no)."""

    model: str
    path: str
    every: int = 0
    by: str = "lower_weights"

    @property
    def collective(self) -> bool:
        """Sharded weights are gathered to be written."""
        return True


class OnloadOp(Op, tag="onload", frozen=True, kw_only=True):
    """Bring back a state of `model` that an `OffloadOp` took off the device: `bytes` of each rank of the group.

    `staleness` is that of the rollouts whose engine it is.
    """

    model: str
    state: State
    bytes: int
    staleness: int = 0
    by: str = "plan_memory"


class OffloadOp(Op, tag="offload", frozen=True, kw_only=True):
    """Take a state of `model` off the device, `bytes` of each rank of the group, to the tier below.

    Without `keep` it is dropped: the tier below has it already, or nothing needs it before it is made anew.
    """

    model: str
    state: State
    bytes: int
    staleness: int = 0
    keep: bool = True
    by: str = "plan_memory"


AnyOp = (
    LoadOp
    | GenerateOp
    | ExtendOp
    | InferOp
    | ComputeOp
    | WaitOp
    | TrainOp
    | CollectOp
    | TakeOp
    | MetricOp
    | OutputOp
    | ReshardOp
    | SyncWeightsOp
    | FreeOp
    | SaveOp
    | OnloadOp
    | OffloadOp
)


def parts(ops: Iterable[AnyOp]) -> Iterator[AnyOp]:
    """The ops, and of a forward that does the work of several each of these: no two of one node."""
    for op in ops:
        if isinstance(op, InferOp):
            yield from op.parts
        else:
            yield op


class Program(_Struct, frozen=True, kw_only=True):
    """One rank class: the ranks from `first` to below `last` (None: to the end) run `ops` in this order each step."""

    first: int = 0
    last: int | None = None
    ops: tuple[AnyOp, ...]

    def covers(self, rank: int) -> bool:
        """Whether `rank` belongs to this class."""
        return self.first <= rank and (self.last is None or rank < self.last)


class Source(_Struct, frozen=True, kw_only=True):
    """Where the plan came from; the only part in which a `.rl` file and its Python twin differ.

    `spans` has line and column of each statement by the name that it declares, a node's before a field's; `files` the
    file of those that stand in another one, which imports brought in.
    """

    path: str = ""
    sha256: str = ""
    spans: dict[str, tuple[int, int]] = {}
    files: dict[str, str] = {}


class Dropped(_Struct, frozen=True, kw_only=True):
    """A node, field or argument that a pass took away, and why."""

    what: str
    by: str
    why: str


class StateSpec(_Struct, frozen=True, kw_only=True):
    """A state of a model on each rank of `group`: `bytes` of a rank.

    `dirty`: training changes it, so it must be written back. `resident`: it is on the device when a step begins.
    """

    model: str
    state: State
    group: str
    bytes: int
    staleness: int = 0
    dirty: bool = False
    resident: bool = True


class OpMemory(_Struct, frozen=True, kw_only=True):
    """What an op takes of a rank's memory at its worst, `at`: its `workspace`, and `resident` states on the device.

    `rank` is the first of the class that it is told of. `categories` splits both. All in bytes, `reserve` left out.
    """

    op: str
    rank: int
    workspace: int
    resident: int
    at: str
    categories: dict[str, int]


class MemoryPlan(_Struct, frozen=True, kw_only=True):
    """The budget of a rank and how the plan keeps to it, in bytes; seconds are predicted.

    `reserve` is what libraries and the allocator take of it. `peak`, with it, is reached in `peak_op`; `unplanned`
    would be, in `unplanned_op`, with all states on the device all the time. `ops` are in program order. `seconds` has
    each op's, `moved_seconds` those of moves between tiers. `gap` is by how much the moves may be above the best: 0
    where `solver` has proved them. `assumed` says what was taken for granted.
    """

    budget: int
    reserve: int
    states: tuple[StateSpec, ...]
    ops: tuple[OpMemory, ...]
    peak: int
    peak_op: str
    unplanned: int
    unplanned_op: str
    seconds: dict[str, float]
    moved_seconds: float
    solver: str
    gap: float = 0.0
    assumed: tuple[str, ...] = ()


class Plan(_Struct, frozen=True, kw_only=True):
    """Everything the executor needs. `world_size` None: any number of ranks that divides `divides`.

    `phases` says of each model that an op uses which engines run it. `figures` are the user's own of the hardware, in
    place of those that `rldsl ls clusters` prints, in the same units. `memory` is there when a budget is
    known.
    """

    schema: str = SCHEMA_VERSION
    algorithm: str
    parameters: dict[str, Scalar]
    cluster: str | None = None
    figures: dict[str, float] = {}
    world_size: int | None = None
    divides: int
    seed: int = 0
    models: tuple[ModelSpec, ...]
    fields: tuple[FieldSpec, ...]
    functions: tuple[FunctionSpec, ...]
    groups: tuple[Group, ...]
    phases: tuple[PhaseSpec, ...] = ()
    roles: dict[str, str] = {}
    depths: dict[str, int] = {}
    edges: tuple[tuple[str, str, str], ...] = ()
    dropped: tuple[Dropped, ...] = ()
    programs: tuple[Program, ...]
    memory: MemoryPlan | None = None
    source: Source = Source()

    def program(self, rank: int) -> Program:
        """The program of `rank`."""
        return next(p for p in self.programs if p.covers(rank))

    def model(self, name: str) -> ModelSpec:
        """The model called `name`."""
        return next(m for m in self.models if m.name == name)

    def function(self, name: str) -> FunctionSpec:
        """The function called `name`."""
        return next(f for f in self.functions if f.name == name)

    def field(self, name: str) -> FieldSpec:
        """The field called `name`."""
        return next(f for f in self.fields if f.name == name)

    def group(self, name: str) -> Group:
        """The group called `name`."""
        return next(g for g in self.groups if g.name == name)

    def ops(self) -> Iterator[AnyOp]:
        """Every op once, each after those before it in any program; where programs disagree, in that of the first."""
        programs = [p.ops for p in self.programs]
        if len(programs) == 1:
            known: dict[str, AnyOp] = {}
            for op in programs[0]:
                known.setdefault(op.id, op)
            yield from known.values()
            return
        first: dict[str, tuple[int, int]] = {}
        follows: dict[str, list[str]] = {}
        waits: dict[str, int] = {}
        for number, ops in enumerate(programs):
            for place, op in enumerate(ops):
                first.setdefault(op.id, (number, place))
            for one, later in pairwise(dict.fromkeys(op.id for op in ops)):
                follows.setdefault(one, []).append(later)
                waits[later] = waits.get(later, 0) + 1
        ready = [place for name, place in first.items() if name not in waits]
        heapify(ready)
        while ready:
            number, place = heappop(ready)
            op = programs[number][place]
            yield op
            del first[op.id]
            for name in follows.get(op.id, ()):
                waits[name] -= 1
                if not waits[name]:
                    heappush(ready, first[name])
        yield from (programs[number][place] for number, place in first.values())


def canonical(data: object) -> bytes:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plan_hash(body: Mapping[str, Any]) -> str:
    """sha256 over everything but the source and the hash itself: equal for a `.rl` file and its Python twin."""
    kept = {k: v for k, v in body.items() if k not in ("source", "hash")}
    return hashlib.sha256(canonical(kept)).hexdigest()


def to_builtins(plan: Plan) -> dict[str, Any]:
    """The plan as plain dicts and lists, hash included."""
    body: dict[str, Any] = json.loads(msgspec.json.encode(plan))
    return {"hash": plan_hash(body), **body}


def schema() -> dict[str, Any]:
    """The JSON Schema of plan.json."""
    made = msgspec.json.schema(Plan)
    made["$defs"]["Plan"]["properties"]["hash"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    made["$defs"]["Plan"]["required"].append("hash")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rldsl plan", **made}
