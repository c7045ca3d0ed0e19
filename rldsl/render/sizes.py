"""How many bytes fields have, as far as is known before a run: neither the lengths of rows nor those of texts are."""

from __future__ import annotations

from collections.abc import Iterable

from rldsl.render.facts import Facts, Rows
from rldsl.render.words import plural
from rldsl.types import DType, FieldType

_BYTES = {DType.F32: 4, DType.I64: 8, DType.BOOL: 1}


def size_words(facts: Facts, fields: Iterable[str]) -> str:
    """`32 rows x 4 B = 128 B`, `32 rows x 9 B x tokens`, `32 rows x text`; fields of different rows one by one."""
    by_rows: dict[Rows, list[FieldType]] = {}
    for name in fields:
        rows, kind = facts.rows(name), facts.type(name)
        if rows and kind:
            by_rows.setdefault(rows, []).append(kind)
    return "; ".join(_size(rows, kinds) for rows, kinds in by_rows.items())


def _size(rows: Rows, kinds: list[FieldType]) -> str:
    fixed = sum(_BYTES[k.dtype] for k in kinds if not k.ragged and k.dtype in _BYTES)
    ragged = sum(_BYTES[k.dtype] for k in kinds if k.ragged and k.dtype in _BYTES)
    parts = [f"{fixed} B"] if fixed else []
    parts += [f"{ragged} B x tokens"] if ragged else []
    parts += ["text"] if any(k.dtype is DType.TEXT for k in kinds) else []
    count = f"{'up to ' if rows.at_most else ''}{plural(rows.count, 'row')}"
    if len(parts) > 1:
        return f"{count} x ({' + '.join(parts)})"
    return f"{count} x {parts[0]}" + (f" = {bytes_words(rows.count * fixed)}" if fixed else "")


def bytes_words(count: float) -> str:
    """`128 B`, `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
