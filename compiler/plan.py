"""The plan: the compiled artefact, what it says beside its ops, its JSON, its hashes.

The JSON Schema in `plan.schema.json` is generated from these types and those of `ops.py` (`make schema`), and a test
compares the two. Unknown keys of a newer minor version are ignored, an unknown major version is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import msgspec

from rldsl.compiler.ops import AnyOp, Scalar, State, Struct, Tier

SCHEMA_MAJOR = 1
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.0"


class Phase(StrEnum):
    """What a model is doing; each phase has its own engine and layout.

    `infer` is the phase of models that no op trains: the others score with the engine that trains them.
    """

    TRAIN = "train"
    GENERATE = "generate"
    INFER = "infer"


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Named weights. `source` is a path, a hub name or `package:...`; `scratch` builds a small random one.

    `shares` names the model whose trunk this one's head sits on. With `lora_rank` above 0 only low-rank adapters of
    the layers in `lora_targets` are trained, scaled by `lora_alpha` / `lora_rank`. `base_of` names a model that lies
    on the weights which this one is, and adds adapters: this one has none of its own, and runs its layers without them.
    """

    name: str
    kind: str
    source: str
    source_args: dict[str, Scalar] = {}
    copy_of: str | None = None
    shares: str | None = None
    base_of: str | None = None
    trainable: bool = True
    precision: str = "fp32"
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_targets: str = ""

    @property
    def holder(self) -> str:
        """The model that has the layers which this one runs through: itself, unless it uses another's."""
        return self.shares or self.base_of or self.name


class FieldSpec(Struct, frozen=True, kw_only=True):
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


class FunctionSpec(Struct, frozen=True, kw_only=True):
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


AXES = ("tp", "cp", "dp", "pp")
"""Parallel axes of a group in the order in which its ranks are numbered, the fastest first, as Megatron has them."""


class Group(Struct, frozen=True, kw_only=True):
    """Ranks that run something together: from the first of each pair in `ranks` to below the second; none means all.

    The pairs rise and do not touch. Inside the group, ranks are numbered along `AXES`; dp is what the others leave.
    Prompt i of a batch lies, with its samples, on every rank whose dp coordinate is i modulo dp. `ep` ranks of dp and
    cp, or where these are too few also of tp, share the experts of a layer.
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


class PhaseSpec(Struct, frozen=True, kw_only=True):
    """What runs a phase of a model, and where."""

    model: str
    phase: Phase
    engine: str
    group: str


class Program(Struct, frozen=True, kw_only=True):
    """One rank class: the ranks from `first` to below `last` (None: to the end) run `ops` in this order each step."""

    first: int = 0
    last: int | None = None
    ops: tuple[AnyOp, ...]

    def covers(self, rank: int) -> bool:
        """Whether `rank` belongs to this class."""
        return self.first <= rank and (self.last is None or rank < self.last)


class Source(Struct, frozen=True, kw_only=True):
    """Where the plan came from; the only part in which a `.rl` file and its Python twin differ.

    `spans` has line and column of each statement by the name that it declares, a node's before a field's; `files` the
    file of those that stand in another one, which imports brought in.
    """

    path: str = ""
    sha256: str = ""
    spans: dict[str, tuple[int, int]] = {}
    files: dict[str, str] = {}


class Dropped(Struct, frozen=True, kw_only=True):
    """A node, field or argument that a pass took away, and why."""

    what: str
    by: str
    why: str


class StateSpec(Struct, frozen=True, kw_only=True):
    """A state of a model on each rank of `group`: `bytes` of a rank.

    `dirty`: training changes it, so it must be written back. `resident`: it is on the device when a step begins.
    `tier`: where it is kept while it is off the device.
    """

    model: str
    state: State
    group: str
    bytes: int
    staleness: int = 0
    dirty: bool = False
    resident: bool = True
    tier: Tier = Tier.DISK


class OpMemory(Struct, frozen=True, kw_only=True):
    """What an op takes of a rank's memory at its worst, `at`: its `workspace`, and `resident` states on the device.

    `rank` is the first of the class that it is told of. `categories` splits both. All in bytes, `reserve` left out.
    """

    op: str
    rank: int
    workspace: int
    resident: int
    at: str
    categories: dict[str, int]


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """The budget of a rank and how the plan keeps to it, in bytes; seconds are predicted.

    `reserve` is what libraries and the allocator take of it. `peak`, with it, is reached in `peak_op`; `unplanned`
    would be, in `unplanned_op`, with all states on the device all the time. `ops` are in program order. `seconds` has
    each op's, and of a move in the background what its wait waits for; the rest, which runs beside other ops and does
    not count in a step, is in `hidden`. A transfer of weights has its own seconds, also where it runs beside others.
    `moved_seconds` are those of moves and their waits. `gap` is by how much all
    moves, hidden or not, may be above the best: 0 where `solver` has proved them. `assumed` says what was taken for
    granted.
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
    hidden: dict[str, float] = {}
    solver: str
    gap: float = 0.0
    assumed: tuple[str, ...] = ()


class Plan(Struct, frozen=True, kw_only=True):
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
