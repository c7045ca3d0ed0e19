"""Rows and bytes in words: numbers where a plan has them, else what they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rldsl.compiler.ops import ReshardOp
from rldsl.compiler.ranks import Ranks, common, words
from rldsl.compiler.volume import ITEM_BYTES, PROMPT_TOKENS, Amount, Rows, Sent, Volume, total
from rldsl.render.facts import Facts
from rldsl.render.ranks import group_words
from rldsl.render.scopes import leaf
from rldsl.render.words import plural
from rldsl.types import DType

_NOTES = {
    PROMPT_TOKENS: "tokens of the longest prompt",
    "text(x)": "bytes of the longest text of x",
    "tokens(x)": "its tokens",
}


def rows_words(rows: Rows) -> str:
    """`8 prompts x 4 samples = 32 rows`."""
    limit = "at most " if rows.at_most else ""
    if rows.per_prompt == 1:
        return f"{limit}{plural(rows.prompts, 'prompt')}, a row each"
    return f"{limit}{plural(rows.prompts, 'prompt')} x {rows.per_prompt} samples = {plural(rows.count, 'row')}"


def share_words(rows: Rows, ranks: int | None) -> str:
    """`16 a rank on 2 ranks`; a prompt's rows lie on one rank."""
    if ranks is None:
        return "spread over all ranks, a prompt's rows on one"
    least, more = divmod(rows.prompts, ranks)
    each = str(least * rows.per_prompt)
    if more:
        each += f" or {(least + 1) * rows.per_prompt}"
    return f"{each} a rank on {plural(ranks, 'rank')}"


def size_words(facts: Facts, fields: Iterable[str]) -> str:
    """`8 x 4 rows x 4 B = 128 B`, `8 x 4 rows, at most (P + 24) x 9 B`; fields of different rows one by one."""
    return volumes_words(v for f in fields if (v := facts.volumes.volume(f)))


def volumes_words(volumes: Iterable[Volume]) -> str:
    """The same of their volumes."""
    by_rows: dict[Rows, list[Volume]] = {}
    for volume in volumes:
        by_rows.setdefault(volume.rows, []).append(volume)
    return "; ".join(_size(rows, volumes) for rows, volumes in by_rows.items())


def _size(rows: Rows, volumes: list[Volume]) -> str:
    count = f"{rows.prompts} x {rows.per_prompt} rows" if rows.per_prompt > 1 else plural(rows.prompts, "row")
    count = f"at most {count}" if rows.at_most else count
    fixed = sum(v.row.constant for v in volumes if v.tokens is None)
    if not any(v.kind.ragged or v.kind.dtype is DType.TEXT for v in volumes):
        return f"{count} x {fixed} B = {bytes_words(rows.count * fixed)}"
    return f"{count}, at most {' + '.join(_row_parts(volumes, fixed))}"


def _row_parts(volumes: list[Volume], fixed: int) -> Iterator[str]:
    """What a row has at most: by its tokens, by its texts, and in any case."""
    by_tokens: dict[Amount, int] = {}
    for volume in volumes:
        if volume.tokens is not None:
            by_tokens[volume.tokens] = by_tokens.get(volume.tokens, 0) + ITEM_BYTES[volume.kind.dtype]
    yield from (f"({amount_words(tokens)}) x {size} B" for tokens, size in by_tokens.items())
    texts = sum(v.kind.dtype is DType.TEXT for v in volumes)
    yield from ["text"] if texts == 1 else [f"{texts} texts"] if texts else []
    yield from [f"{fixed} B"] if fixed else []


def amount_words(amount: Amount) -> str:
    """`P + 24`, `16 text(prompts)`, `0`."""
    parts = [name if times == 1 else f"{times:,} {name}" for name, times in amount.symbols if times]
    parts += [f"{amount.constant:,}"] if amount.constant or not parts else []
    return " + ".join(parts)


def amount_bytes(amount: Amount) -> str:
    """`128 B`, `(2,304 P + 55,296) B`."""
    if not amount.symbols:
        return bytes_words(amount.constant)
    return f"({amount_words(amount)}) B"


def symbols_words(amount: Amount) -> str:
    """`P: tokens of the longest prompt; text(x): bytes of the longest text of x`: what the symbols stand for."""
    forms = dict.fromkeys(f"{name.partition('(')[0]}(x)" if "(" in name else name for name, _ in amount.symbols)
    return "; ".join(f"{form}: {what}" for form, what in _NOTES.items() if form in forms)


def sent_words(facts: Facts, op: ReshardOp) -> str:
    """`8 of 16 prompts change ranks, in 2 messages, at most (64 P + 1,600) B`; empty where the plan does not say."""
    sent = facts.volumes.sent(op)
    if sent is None:
        return ""
    limit = "at most " if sent.bound else ""
    return f"{crossing_words(sent)}, {plural(sent.messages, 'message')}, {limit}{amount_bytes(sent.bytes)}"


def left_words(facts: Facts, op: ReshardOp) -> str:
    """What a move leaves behind, `copies of `x` stay on ranks 0 to 1: 128 B more`, and who then holds it twice."""
    if not op.keeps:
        return ""
    plan = facts.plan
    kept = [v for name in op.keeps if (v := facts.volumes.volume(name))]
    size = total(v.bytes for v in kept)
    limit = "at most " if any(v.bound for v in kept) else ""
    where = group_words(plan, op.source)
    text = f"copies of {', '.join(f'`{leaf(n)}`' for n in op.keeps)} stay on {where}: {limit}{amount_bytes(size)} more"
    world = plan.world_size
    both = common(*(plan.group(g).spans(world) for g in (op.source, op.target))) if world is not None else ()
    return f"{text}; {words(both)} {_hold(both)} rows in both layouts" if both else text


def _hold(ranks: Ranks) -> str:
    return "holds" if words(ranks).startswith("rank ") else "hold"


def crossing_words(sent: Sent) -> str:
    """`8 of 16 prompts change ranks`."""
    return f"{sent.prompts} of {plural(sent.of, 'prompt')} change ranks"


def amount_json(amount: Amount) -> dict[str, object]:
    """A number, and how often each symbol is to be added."""
    return {"constant": amount.constant, "symbols": dict(amount.symbols)}


def bytes_words(count: float) -> str:
    """`128 B`, `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
