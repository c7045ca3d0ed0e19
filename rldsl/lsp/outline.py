"""The parts of a document as a tree, for an editor's list of symbols."""

from __future__ import annotations

from dataclasses import dataclass, field

from rldsl.lsp.scan import Kind, Occurrence, Statement
from rldsl.lsp.view import Source

_SHOWN = frozenset({"algorithm", "param", "model", "input", "node", "metric", "output", "loop", "validate"})


@dataclass(kw_only=True)
class Entry:
    """One definition: the statement from `start` to `end`, its name from `name_start` to `name_end`."""

    name: str
    kind: Kind
    detail: str
    start: int
    end: int
    name_start: int
    name_end: int
    children: list[Entry] = field(default_factory=list)


def outline(source: Source) -> list[Entry]:
    """Everything that the document defines: an algorithm holds its statements, a block and a node what they define."""
    roots: list[Entry] = []
    open_blocks: list[Entry] = []
    by_statement: dict[int, Entry] = {}
    for occurrence in source.scan.occurrences:
        statement = occurrence.statement
        if not occurrence.defines or statement.keyword not in _SHOWN:
            continue
        while open_blocks and open_blocks[-1].end <= statement.start:
            open_blocks.pop()
        entry = _entry(source, occurrence)
        holder = by_statement.get(id(statement)) if statement.keyword == "node" else None
        siblings = holder.children if holder else open_blocks[-1].children if open_blocks else roots
        siblings.append(entry)
        by_statement.setdefault(id(statement), entry)
        if statement.keyword in ("algorithm", "loop", "validate"):
            open_blocks.append(entry)
    return roots


def _entry(source: Source, occurrence: Occurrence) -> Entry:
    statement = occurrence.statement
    whole = occurrence.kind is not Kind.FIELD
    return Entry(
        name=occurrence.name,
        kind=occurrence.kind,
        detail=_detail(source, statement) if whole else "",
        start=statement.start if whole else occurrence.start,
        end=_end(source, statement) if whole else occurrence.end,
        name_start=occurrence.start,
        name_end=occurrence.end,
    )


def _end(source: Source, statement: Statement) -> int:
    """Where a statement ends; one with a body that nothing closes goes on to the end."""
    if statement.keyword in ("algorithm", "loop", "validate"):
        return statement.body_end or len(source.text.text)
    return statement.end


def _detail(source: Source, statement: Statement) -> str:
    """The statement without its keyword and name, on one line."""
    if statement.keyword == "algorithm":
        return ""
    words = " ".join(source.text.text[statement.start : statement.end].split())
    return words.partition(statement.names[0])[2].strip() if statement.names else words
