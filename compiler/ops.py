"""The ops of a plan: every kind is one frozen struct, tagged by `op` in the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec
from msgspec.structs import replace

Scalar = int | float | bool | str | None


class Struct(msgspec.Struct, frozen=True):
    """Base of everything in a plan."""


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


class Arg(Struct, frozen=True, kw_only=True):
    """One argument of a function: a field, the current policy's own log-probs, or absent (optional)."""

    param: str
    field: str | None = None
    current: bool = False


class SourceSpec(Struct, frozen=True, kw_only=True):
    """Where input rows come from: `reasoning_gym`, `jsonl` or `parquet`, with the arguments given."""

    kind: str
    args: dict[str, Scalar] = {}


class Guard(Struct, frozen=True, kw_only=True):
    """When an op runs; all ranks decide alike, from what all of them know.

    `every` k > 0: in steps 0, k, 2k, ... and the last. `until`: while that collection is not full.
    """

    every: int = 0
    until: str | None = None


class Reason(Struct, frozen=True, kw_only=True):
    """Why something is as it is, and the pass that made it so."""

    by: str
    why: str


class Op(Struct, tag_field="op", frozen=True, kw_only=True):
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


class InferHead(Struct, frozen=True, kw_only=True):
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
        return tuple([a.field for a in self.args if a.field is not None])

    @property
    def writes(self) -> tuple[str, ...]:
        """The function's results; None in `outputs` stands for one that nothing reads."""
        return tuple([o for o in self.outputs if o is not None])

    @property
    def collective(self) -> bool:
        """Only a function that sums over ranks."""
        return self.reduces


class WaitOp(Op, tag="wait", frozen=True, kw_only=True):
    """Wait for the op `begun`, which runs in the background; its results become fields, and its error is raised.

    A state that it brings back may be used from here on. `holds` are the fields that it reads.
    """

    begun: str
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
    keeps weights of its own, and its transfer follows the rollout. In the `background` it only begins here, with the
    weights as they are here, on a thread of each rank that does one transfer after the other: until the `WaitOp` that
    names it these stay as they are, and nothing uses the engine.
    """

    model: str
    sync: SyncKind
    source: str = "world"
    target: str = "world"
    staleness: int = 0
    background: bool = False
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


class Tier(StrEnum):
    """Where a state is kept while it is off the device: a GPU has the host's memory and below it a disk, a processor
    its disk.
    """

    HOST = "host"
    DISK = "disk"


class OnloadOp(Op, tag="onload", frozen=True, kw_only=True):
    """Bring back a state of `model` that an `OffloadOp` took off the device: `bytes` of each rank of the group.

    It comes from its `tier`. `staleness` is that of the rollouts whose engine it is. In the `background` it only begins
    here, and takes its bytes from here on: it is there after the `WaitOp` that names it.
    """

    model: str
    state: State
    bytes: int
    staleness: int = 0
    tier: Tier = Tier.DISK
    background: bool = False
    by: str = "plan_memory"


class OffloadOp(Op, tag="offload", frozen=True, kw_only=True):
    """Take a state of `model` off the device, `bytes` of each rank of the group, to its `tier`.

    Without `keep` it is dropped: the tier has it already, or nothing needs it before it is made anew.
    """

    model: str
    state: State
    bytes: int
    staleness: int = 0
    tier: Tier = Tier.DISK
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


def in_background(op: AnyOp) -> bool:
    """Whether the op only begins where it stands, and a `WaitOp` ends it."""
    return isinstance(op, ComputeOp | SyncWeightsOp | OnloadOp) and op.background


def parts(ops: Iterable[AnyOp]) -> Iterator[AnyOp]:
    """The ops, and of a forward that does the work of several each of these: no two of one node."""
    for op in ops:
        if isinstance(op, InferOp):
            yield from op.parts
        else:
            yield op
