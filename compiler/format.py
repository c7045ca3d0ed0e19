"""The canonical text of a file: the same words and comments in the same order, with blanks where they belong.

A statement stands on one line. A comment within it stays between the words that it stands between, and so breaks the
line. Neighbouring statements of one kind have their `:` and `=` in columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from rldsl.compiler.lexemes import BLOCKS, STATEMENTS, Lexeme, scan
from rldsl.compiler.syntax_errors import parse_tree, parser
from rldsl.diagnostics import Diagnostics

_INDENT, _CONTINUED = "  ", "    "
_ALIGNED = ("param", "model", "node", "metric", "output", "layout")
_LONGEST_HEAD = 8  # words up to the `=`: `node NAME : ROLE , TYPE =`
_TIGHT_BEFORE = frozenset((",", ";", ")", "]", "}", "?", ".", ".."))
_TIGHT_AFTER = frozenset(("(", "[", "{", ".", ".."))


@dataclass
class _Item:
    """What begins a line: a statement, the head of a block up to its `{`, a block's `}`, or a comment between them."""

    kind: str
    depth: int
    words: list[Token] = field(default_factory=list)
    comments: list[Lexeme] = field(default_factory=list)  # among the words and behind them
    blank: bool = False  # a blank line stands before it

    @property
    def start(self) -> int:
        """Its place in the text."""
        return _start(self.words[0]) if self.words else self.comments[0].start

    @property
    def last_word(self) -> int:
        """The place of its last word."""
        return _start(self.words[-1]) if self.words else self.start

    @property
    def end(self) -> int:
        """The place behind all of it."""
        ends = [_start(w) + len(w) for w in self.words[-1:]] + [c.end for c in self.comments[-1:]]
        return max(ends)


def format_text(text: str, file: str) -> str:
    """`text` in canonical form, which means the same; `file` is the name that spans carry.

    Raises DiagnosticError with all syntax errors (RL0102): what cannot be read is not rewritten.
    """
    tree, words = _read(text, file)
    comments = [w for w in scan(text) if w.kind == "comment"]
    items = _with_comments(list(_items(tree, iter(words), 0)), comments)
    _mark_blanks(items, text)
    done = "".join(f"{line}\n" for line in _lines(items))
    assert [w.text for w in scan(done)] == [w.text for w in scan(text)], "a word or a comment was lost or moved"
    return done


def _read(text: str, file: str) -> tuple[Tree[Token], list[Token]]:
    """The syntax tree, and every word, also those that trees leave out."""
    reader: Any = parser().parse_interactive(text)
    try:
        words = reader.exhaust_lexer()
        tree = reader.feed_eof(words[-1] if words else None)
    except UnexpectedInput:
        found = Diagnostics()
        parse_tree(text, file, found)
        found.raise_if_errors()
        raise
    assert isinstance(tree, Tree)
    return tree, words


def _items(tree: Tree[Token], words: Iterator[Token], depth: int) -> Iterator[_Item]:
    """The statements of a file or a block in order, with their words."""
    for child in tree.children:
        if not isinstance(child, Tree) or child.data not in (*STATEMENTS, "layout", "place"):
            continue
        kind, item = str(child.data), _Item(str(child.data), depth)
        for word in words:
            item.words.append(word)
            if (kind in BLOCKS and word.type == "LBRACE") or _start(word) + len(word) == child.meta.end_pos:
                break
        yield item
        if kind in BLOCKS:
            yield from _items(child, words, depth + 1)
            yield _Item("}", depth, [next(words)])


def _with_comments(items: list[_Item], comments: list[Lexeme]) -> list[_Item]:
    """`items` with each comment in the one that it stands in or behind; those on lines between become items."""
    found: list[_Item] = []
    at = 0
    for comment in comments:
        while at < len(items) and items[at].start < comment.start:
            found.append(items[at])
            at += 1
        here = found[-1] if found else None
        if here and here.words and (comment.start < here.last_word or not comment.first):
            here.comments.append(comment)
        else:
            found.append(_Item("comment", _depth_at(items, at), comments=[comment]))
    return found + items[at:]


def _depth_at(items: Sequence[_Item], index: int) -> int:
    """How deep a comment before item `index` stands: as deep as what follows, in the block that a `}` ends."""
    if index == len(items):
        return 0
    return items[index].depth + (items[index].kind == "}")


def _mark_blanks(items: Sequence[_Item], text: str) -> None:
    """Which have a blank line before them: where the text has one, but not at either end of a block."""
    for last, item in pairwise(items):
        inside = last.kind not in BLOCKS and item.kind != "}"
        item.blank = inside and text.count("\n", last.end, item.start) > 1


def _lines(items: Sequence[_Item]) -> Iterator[str]:
    for run in _runs(items):
        columns = {roles: _columns(run, roles=roles) for roles in (False, True)}
        for item in run:
            if item.blank:
                yield ""
            yield from _statement(item, columns)


def _runs(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Neighbours of one kind, with the comments between them; a blank line parts them."""
    run: list[_Item] = []
    kind = ""
    for item in items:
        if run and (item.blank or (kind and item.kind not in (kind, "comment"))):
            yield run
            run, kind = [], ""
        run.append(item)
        kind = kind if item.kind == "comment" else item.kind
    if run:
        yield run


def _columns(run: Sequence[_Item], *, roles: bool) -> tuple[int, int]:
    """How wide what stands before `:`, and from there to `=`, is at most in a run.

    Nodes with a role (`roles`) line up with one another, and those without one do.
    """
    widths = [_widths(item) for item in run if _has_columns(item) and _has_role(item) is roles]
    return max((w[0] for w in widths), default=0), max((w[1] for w in widths), default=0)


def _has_role(item: _Item) -> bool:
    first, second = _ends(item)
    return first < second


def _has_columns(item: _Item) -> bool:
    if item.kind not in _ALIGNED:
        return False
    head = item.words[_ends(item)[1]]
    return not any(c.start < _start(head) for c in item.comments)


def _ends(item: _Item) -> tuple[int, int]:
    """The words at which the first and the second column of a statement's head end: `:` or `=`, and `=`."""
    types = [w.type for w in item.words[:_LONGEST_HEAD]]
    colon = types.index("COLON") if "COLON" in types else len(types)
    equal = types.index("EQUAL") if "EQUAL" in types else len(types)
    return (colon, colon) if item.kind == "layout" else (min(colon, equal), equal)


def _widths(item: _Item) -> tuple[int, int]:
    first, second = _ends(item)
    return len(_joined(item.words[:first])), len(_joined(item.words[first:second]))


def _padding(item: _Item, columns: dict[bool, tuple[int, int]]) -> dict[int, int]:
    """By word: how many blanks stand before it beside the usual, so that columns line up."""
    if not _has_columns(item):
        return {}
    (first, second), (name, role) = _ends(item), _widths(item)
    wide_name, wide_role = columns[_has_role(item)]
    return {second: wide_role - role, first: wide_name - name}


def _statement(item: _Item, columns: dict[bool, tuple[int, int]]) -> Iterator[str]:
    """Its lines: one, and one more behind each comment within it."""
    line, indent = "", _INDENT * item.depth
    inner = indent + _CONTINUED if item.words else indent
    padding = _padding(item, columns)
    comments = deque(item.comments)
    for index, word in enumerate(item.words):
        while comments and comments[0].start < _start(word):
            yield from _with_comment(indent + line, inner, comments.popleft())
            line, indent = "", inner
        line += " " * padding.get(index, 0) + (_gap(item.words[index - 1], word) if line else "") + word
    for comment in comments:
        yield from _with_comment(indent + line, inner, comment)
        line, indent = "", inner
    if line:
        yield indent + line


def _with_comment(line: str, inner: str, comment: Lexeme) -> Iterator[str]:
    """A line and the comment behind it, or the comment on a line of its own below."""
    if not comment.first:
        yield f"{line}  {comment.text}"
        return
    if line.strip():
        yield line
    yield inner + comment.text


def _joined(words: Sequence[Token]) -> str:
    return "".join([*words[:1], *(_gap(last, word) + word for last, word in pairwise(words))])


def _gap(last: Token, word: Token) -> str:
    """What stands between two neighbouring words: a blank or nothing."""
    if last == ",":  # also before the bracket of `[1, )`
        return " "
    if word in _TIGHT_BEFORE or last in _TIGHT_AFTER or last.type == "MINUS":
        return ""
    return "" if word in ("(", "[") and last.type == "NAME" else " "


def _start(word: Token) -> int:
    return word.start_pos or 0
