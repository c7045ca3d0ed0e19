"""How many bytes fields have and how many a move sends: exact where rows are of one size, else a bound in symbols.

What only a run knows stands as a symbol: `P`, the tokens of the longest prompt; `text(f)`, the bytes of the longest
text of the field f; `tokens(f)`, those of it as tokens. The wire format is that of `backends/data/reshard.py`: for
each field the number of rows, their ids, their lengths where these differ, and the values, in parts of 8 bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from msgspec import structs

from rldsl.compiler.ops import AnyOp, CollectOp, ExtendOp, FreeOp, GenerateOp, LoadOp, ReshardOp, TakeOp, WaitOp
from rldsl.compiler.plan import Plan
from rldsl.types import DType, FieldType

PROMPT_TOKENS = "P"
ITEM_BYTES: Mapping[DType, int] = {DType.F32: 4, DType.I64: 8, DType.BOOL: 1, DType.TEXT: 1}
"""Bytes of an element; of a text, in UTF-8, one of its bytes."""

WORD = 8
"""Bytes of a row's id, of its length, and of the number of rows; every part of a message is padded to as many."""


@dataclass(frozen=True, slots=True)
class Amount:
    """`constant`, and of each symbol so many times its value."""

    constant: int = 0
    symbols: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Amount) -> Amount:
        """The sum."""
        counts = Counter(dict(self.symbols))
        counts.update(dict(other.symbols))
        return Amount(self.constant + other.constant, tuple(counts.items()))

    def __mul__(self, times: int) -> Amount:
        """So many times it."""
        return Amount(self.constant * times, tuple((s, n * times) for s, n in self.symbols))

    def at(self, values: Mapping[str, int]) -> int:
        """The number, where the symbols have these values."""
        return self.constant + sum(n * values[s] for s, n in self.symbols)


def symbol(name: str, times: int = 1) -> Amount:
    """`times` the symbol."""
    return Amount(symbols=((name, times),))


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum of all."""
    return sum(amounts, Amount())


@dataclass(frozen=True, slots=True)
class Rows:
    """`prompts` prompts a step, at most so many after a filter, with `per_prompt` rows each."""

    prompts: int
    per_prompt: int
    at_most: bool = False

    @property
    def count(self) -> int:
        """All of them, on all ranks together."""
        return self.prompts * self.per_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The values of a field: so many rows of `row` bytes, of at most as many where `bound`."""

    kind: FieldType
    rows: Rows
    row: Amount
    tokens: Amount | None = None

    @property
    def bound(self) -> bool:
        """Whether rows may be shorter, or fewer, than said."""
        return self.rows.at_most or self.kind.ragged or self.kind.dtype is DType.TEXT

    @property
    def bytes(self) -> Amount:
        """Of all rows, on all ranks together."""
        return self.row * self.rows.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a move sends between ranks: `prompts` of `of` change place, in `messages` of `bytes` with ids and all.

    There may be fewer bytes where `bound`.
    """

    prompts: int
    of: int
    messages: int
    bytes: Amount
    bound: bool


def measured(plan: Plan) -> Plan:
    """`plan` with the layouts and the bytes of its fields, whatever it said of them before."""
    volumes = Volumes(plan)
    layouts: dict[str, dict[str, None]] = {}
    for op in plan.ops():
        for name in op.writes:
            layouts.setdefault(name, {})[op.target if isinstance(op, ReshardOp) else op.group] = None
    fields = (
        structs.replace(f, layouts=tuple(layouts.get(f.name, ())), bytes=_written(volumes.volume(f.name)))
        for f in plan.fields
    )
    return structs.replace(plan, fields=tuple(fields))


def _written(volume: Volume | None) -> dict[str, int]:
    if volume is None:
        return {}
    amounts = {"1": volume.bytes.constant, **dict(sorted(volume.bytes.symbols))}
    return {name: count for name, count in amounts.items() if count}


def wire_bytes(kind: FieldType, rows: int, elements: int) -> int:
    """Bytes of a field in one message with `rows` rows of together `elements` elements; of texts, bytes."""
    lengths = rows * WORD if _varies(kind) else 0
    return WORD + rows * WORD + lengths + _padded(elements * ITEM_BYTES[kind.dtype])


def size_exchange_bytes(ranks: int) -> int:
    """Bytes that `ranks` ranks tell each other before a move, all together: how long their messages will be."""
    return ranks * ranks * WORD


class Volumes:
    """The volumes of all fields of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._working = [op for op in plan.ops() if not isinstance(op, FreeOp | ReshardOp | WaitOp)]
        # By source, target and batch the prompts that change place, and how many messages have so many of them.
        self._crossings: dict[tuple[str, str, int], tuple[int, Counter[int]]] = {}

    def type(self, field: str) -> FieldType | None:
        """The field's type, where the plan has it."""
        return self._types.get(field)

    def rows(self, field: str) -> Rows | None:
        """How many rows the field has; None where nothing says."""
        return self._rows.get(field) if field in self._types else None

    def volume(self, field: str) -> Volume | None:
        """The field's bytes; None where the plan does not say what it is."""
        kind, rows = self.type(field), self.rows(field)
        if kind is None or rows is None:
            return None
        size = ITEM_BYTES[kind.dtype]
        if kind.dtype is DType.TEXT:
            return Volume(kind=kind, rows=rows, row=symbol(f"text({_plain(field)})"))
        if not kind.ragged:
            return Volume(kind=kind, rows=rows, row=Amount(size))
        tokens = self._tokens.get(field, symbol(f"tokens({_plain(field)})"))
        return Volume(kind=kind, rows=rows, row=tokens * size, tokens=tokens)

    def sent(self, op: ReshardOp, fields: Iterable[str] | None = None) -> Sent | None:
        """What the move of `fields`, by default all of the op's, sends; None without numbers of ranks or types.

        Without the exchange of sizes before it (`size_exchange_bytes`).
        """
        volumes = [self.volume(f) for f in (op.fields if fields is None else fields)]
        known = [v for v in volumes if v is not None]
        if len(known) < len(volumes) or self._plan.world_size is None:
            return None
        key = op.source, op.target, op.batch
        if key not in self._crossings:
            pairs = self._crossing(*key, self._plan.world_size)
            messages = Counter((sender, receiver) for _, sender, receiver in pairs)
            self._crossings[key] = len({prompt for prompt, _, _ in pairs}), Counter(messages.values())
        prompts, sizes = self._crossings[key]
        size = total(_in_message(v, n * v.rows.per_prompt) * count for v in known for n, count in sizes.items())
        bound = any(v.bound for v in known)
        return Sent(prompts=prompts, of=op.batch, messages=sum(sizes.values()), bytes=size, bound=bound)

    def _crossing(self, source_name: str, target_name: str, batch: int, world: int) -> list[tuple[int, int, int]]:
        """Prompt, sender and receiver of all that is sent."""
        source, target = self._plan.group(source_name), self._plan.group(target_name)
        here = [source.holders(dp, world) for dp in range(min(batch, source.dp(world)))]
        there = [target.holders(dp, world) for dp in range(min(batch, target.dp(world)))]
        return [
            (prompt, held[0], rank)
            for prompt in range(batch)
            for held in (here[prompt % len(here)],)
            for rank in there[prompt % len(there)]
            if rank not in held
        ]

    def made(self) -> Amount:
        """All values that a step makes or reads, at most."""
        return total(v.bytes for name in self._types if (v := self.volume(name)))

    def moved(self) -> Amount:
        """All bytes that the moves of a step send between ranks, at most; those of weights are not among them."""
        moves = (op for op in self._plan.ops() if isinstance(op, ReshardOp))
        return total(sent.bytes for op in moves if (sent := self.sent(op)))

    @cached_property
    def _types(self) -> dict[str, FieldType]:
        return {f.name: FieldType.parse(f.type) for f in self._plan.fields}

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """In program order a field's writer comes after the writers of what that reads."""
        known: dict[str, Rows] = {}
        per_prompt = {f.name: f.per_prompt for f in self._plan.fields}
        for op in self._working:
            source = _batch(op) or next((known[f] for f in op.reads if f in known), None)
            if source:
                known.update({f: Rows(source.prompts, per_prompt.get(f, 1), source.at_most) for f in op.writes})
        return known

    @cached_property
    def _tokens(self) -> dict[str, Amount]:
        """At most so many tokens a row, of each ragged field."""
        known: dict[str, Amount] = {}
        kept: dict[str, Amount] = {}
        for op in self._working:
            ragged = [f for f in op.writes if f in self._types and self._types[f].ragged]
            if isinstance(op, TakeOp):
                known.update({f: kept[f] for f in ragged if f in kept})
            elif (length := self._length(op, known)) is not None:
                known.update(dict.fromkeys(ragged, length))
            if isinstance(op, CollectOp):
                kept.update({out: known[f] for f, out in op.fields.items() if f in known})
        return known

    def _length(self, op: AnyOp, known: Mapping[str, Amount]) -> Amount | None:
        """At most so many tokens a row of what the op writes: prompt, responses, and what was said between them."""
        if isinstance(op, GenerateOp):
            return symbol(self._prompt(op.prompts)) + Amount(op.max_new_tokens)
        if isinstance(op, ExtendOp) and op.tokens in known:
            return known[op.tokens] + symbol(f"tokens({_plain(op.observation)})") + Amount(op.max_new_tokens)
        return next((known[f] for f in op.reads if f in known), None)

    def _prompt(self, field: str) -> str:
        """`P` for prompts as they are loaded; of another text, `tokens(text)`."""
        loaded = {c for op in self._working if isinstance(op, LoadOp) and not op.first for c in op.columns}
        return PROMPT_TOKENS if field in loaded else f"tokens({_plain(field)})"


def _in_message(volume: Volume, rows: int) -> Amount:
    """At most so many bytes of a field in a message of so many rows."""
    kind = volume.kind
    if not _varies(kind):
        return Amount(wire_bytes(kind, rows, rows))
    # How much padding lengths will need is not known: at most what one element leaves of a word.
    return Amount(wire_bytes(kind, rows, 0) + WORD - ITEM_BYTES[kind.dtype]) + volume.row * rows


def _varies(kind: FieldType) -> bool:
    """Whether rows differ in length."""
    return kind.ragged or kind.dtype is DType.TEXT


def _padded(count: int) -> int:
    return -(-count // WORD) * WORD


def _batch(op: AnyOp) -> Rows | None:
    if isinstance(op, LoadOp):
        return Rows(op.batch, 1)
    return Rows(op.batch, 1, at_most=True) if isinstance(op, TakeOp) else None


def _plain(name: str) -> str:
    """Without the number of a loop's round: all rounds of a loop have one bound."""
    return ".".join(part for part in name.split(".") if not part.isdecimal())
