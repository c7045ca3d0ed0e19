"""How many bytes fields have and how many a move sends: exact where rows are of one size, else a bound in symbols.

What only a run knows stands as a symbol: `P`, the tokens of the longest prompt; `text(f)`, the bytes of the longest
text of the field f; `tokens(f)`, those of it as tokens. The wire format is that of `backends/data/reshard.py`: for
each field the number of rows, their ids, their lengths where these differ, and the values, in parts of 8 bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import gcd, lcm

import msgspec

from rldsl.compiler.ops import AnyOp, CollectOp, ExtendOp, FreeOp, GenerateOp, LoadOp, ReshardOp, TakeOp, WaitOp
from rldsl.compiler.plan import Group, Plan
from rldsl.types import DType, FieldType

PROMPT_TOKENS = "P"
ITEM_BYTES: Mapping[DType, int] = {DType.F32: 4, DType.I64: 8, DType.BOOL: 1, DType.TEXT: 1}
"""Bytes of an element; of a text, in UTF-8, one of its bytes."""

WORD = 8
"""Bytes of a row's id, of its length, and of the number of rows; every part of a message is padded to as many."""


class Amount(msgspec.Struct, frozen=True):
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


class Rows(msgspec.Struct, frozen=True):
    """`prompts` prompts a step, at most so many after a filter, with `per_prompt` rows each."""

    prompts: int
    per_prompt: int
    at_most: bool = False

    @property
    def count(self) -> int:
        """All of them, on all ranks together."""
        return self.prompts * self.per_prompt


class Volume(msgspec.Struct, frozen=True, kw_only=True):
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


class Sent(msgspec.Struct, frozen=True, kw_only=True):
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
        msgspec.structs.replace(f, layouts=tuple(layouts.get(f.name, ())), bytes=_written(volumes.volume(f.name)))
        for f in plan.fields
    )
    return msgspec.structs.replace(plan, fields=tuple(fields))


def _written(volume: Volume | None) -> dict[str, int]:
    if volume is None:
        return {}
    size = volume.bytes
    amounts = {"1": size.constant, **dict(sorted(size.symbols))}
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
        self._crossings: dict[tuple[str, str, int], _Crossing | None] = {}

    def type(self, field: str) -> FieldType | None:
        """The field's type, where the plan has it."""
        return self._types.get(field)

    def rows(self, field: str) -> Rows | None:
        """How many rows the field has; None where nothing says."""
        return self._walked[0].get(field) if field in self._types else None

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
        tokens = self._walked[1].get(field) or symbol(f"tokens({_plain(field)})")
        return Volume(kind=kind, rows=rows, row=tokens * size, tokens=tokens)

    def sent(self, op: ReshardOp, fields: Iterable[str] | None = None) -> Sent | None:
        """What the move of `fields`, by default all of the op's, sends.

        None without a number of ranks or types. The exchange of sizes before it (`size_exchange_bytes`) is not in it.
        """
        volumes = [self.volume(f) for f in (op.fields if fields is None else fields)]
        known = [v for v in volumes if v is not None]
        if len(known) < len(volumes) or self._plan.world_size is None:
            return None
        key = op.source, op.target, op.batch
        if key not in self._crossings:
            groups = self._plan.group(op.source), self._plan.group(op.target)
            self._crossings[key] = _crossing(*groups, op.batch, self._plan.world_size)
        crossing = self._crossings[key]
        if crossing is None:
            return None
        sizes = (
            _in_message(v, each * v.rows.per_prompt) * messages for each, messages in crossing.messages for v in known
        )
        return Sent(
            prompts=crossing.prompts,
            of=op.batch,
            messages=sum(messages for _, messages in crossing.messages),
            bytes=total(sizes),
            bound=any(v.bound for v in known),
        )

    def made(self) -> Amount:
        """All values that a step makes or reads, at most."""
        return total(v.bytes for name in self._types if (v := self.volume(name)))

    def moved(self) -> Amount:
        """All bytes that the moves of a step send between ranks, at most; those of weights are not among them."""
        moves = (op for op in self._plan.ops() if isinstance(op, ReshardOp))
        return total(sent.bytes for op in moves if (sent := self.sent(op)))

    def left(self) -> Amount:
        """All rows that moves leave at their source as well."""
        moves = (op for op in self._plan.ops() if isinstance(op, ReshardOp))
        return total(v.bytes for op in moves for name in op.keeps if (v := self.volume(name)))

    @cached_property
    def _types(self) -> dict[str, FieldType]:
        return {f.name: FieldType.parse(f.type) for f in self._plan.fields}

    @cached_property
    def _walked(self) -> tuple[dict[str, Rows], dict[str, Amount]]:
        """The rows of each field, and of each ragged one at most so many tokens a row.

        In program order a field's writer comes after the writers of what that reads.
        """
        rows: dict[str, Rows] = {}
        tokens: dict[str, Amount] = {}
        kept: dict[str, Amount] = {}
        per_prompt = {f.name: f.per_prompt for f in self._plan.fields}
        for op in self._working:
            reads, writes = op.reads, op.writes
            source = _batch(op) or next((rows[f] for f in reads if f in rows), None)
            if source:
                rows.update({f: _with(source, per_prompt.get(f, 1)) for f in writes})
            ragged = [f for f in writes if f in self._types and self._types[f].ragged]
            if isinstance(op, TakeOp):
                tokens.update({f: kept[f] for f in ragged if f in kept})
            elif ragged and (length := self._length(op, tokens)) is not None:
                tokens.update(dict.fromkeys(ragged, length))
            if isinstance(op, CollectOp):
                kept.update({out: tokens[f] for f, out in op.fields.items() if f in tokens})
        return rows, tokens

    @cached_property
    def _loaded(self) -> set[str]:
        """The step's inputs."""
        return {c for op in self._working if isinstance(op, LoadOp) and not op.first for c in op.columns}

    def _length(self, op: AnyOp, known: Mapping[str, Amount]) -> Amount | None:
        """At most so many tokens a row of what the op writes: prompt, responses, and what was said between them."""
        if isinstance(op, GenerateOp):
            return symbol(self._prompt(op.prompts)) + Amount(op.max_new_tokens)
        if isinstance(op, ExtendOp) and op.tokens in known:
            return known[op.tokens] + symbol(f"tokens({_plain(op.observation)})") + Amount(op.max_new_tokens)
        return next((known[f] for f in op.reads if f in known), None)

    def _prompt(self, field: str) -> str:
        """`P` for prompts as they are loaded; of another text, `tokens(text)`."""
        return PROMPT_TOKENS if field in self._loaded else f"tokens({_plain(field)})"


class _Crossing(msgspec.Struct, frozen=True):
    """How many prompts change place; how many prompts messages have, and how many messages have so many."""

    prompts: int
    messages: tuple[tuple[int, int], ...]


def _crossing(source: Group, target: Group, batch: int, world: int) -> _Crossing | None:
    """What of `batch` prompts changes place; None for a group without a rank.

    Prompts on coordinate i of the source and j of the target are those that are i modulo the one's dp and j modulo the
    other's: equally many for each pair whose coordinates agree modulo what the two sizes have in common, but that the
    first of the pairs have one more where the batch does not divide. The first rank of i sends them, in one message
    each, to all ranks of j that are not of i as well.
    """
    here, there = source.dp(world), target.dp(world)
    pairs = lcm(here, there)
    if not pairs:
        return None
    common = gcd(here, there)
    # For each pair of coordinates the ranks that hold its prompts at both ends.
    stay = Counter((i, j) for i, j in _at_both(source, target, world) if (i - j) % common == 0)
    each, more = divmod(batch, pairs)
    longer = [stay[pair % here, pair % there] for pair in range(more)]
    settled = each * sum(1 for count in stay.values() if count == target.copies) + longer.count(target.copies)
    long = more * target.copies - sum(longer)
    short = pairs * target.copies - stay.total() - long
    messages = tuple((size, count) for size, count in ((each + 1, long), (each, short)) if size and count)
    return _Crossing(batch - settled, messages)


def _at_both(source: Group, target: Group, world: int) -> Iterator[tuple[int, int]]:
    """The dp coordinates, in each of the groups, of the ranks that are in both."""
    here, there = source.dp(world), target.dp(world)
    inner, outer = source.tp * source.cp, target.tp * target.cp
    before = 0
    for first, last in source.spans(world):
        passed = 0
        for low, high in target.spans(world):
            for rank in range(max(first, low), min(last, high)):
                yield (before + rank - first) // inner % here, (passed + rank - low) // outer % there
            passed += high - low
        before += last - first


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


def _with(rows: Rows, per_prompt: int) -> Rows:
    """The rows of the same prompts, with so many each."""
    return rows if rows.per_prompt == per_prompt else Rows(rows.prompts, per_prompt, rows.at_most)


def _plain(name: str) -> str:
    """Without the number of a loop's round: all rounds of a loop have one bound."""
    return ".".join(part for part in name.split(".") if not part.isdecimal())
