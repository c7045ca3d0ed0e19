"""Reads a text without mistakes by lark's tables: the tree that lark makes, in a third of the time.

lark keeps open how tokens and trees are made. Here both are made in place, blanks are skipped together with the token
behind them, and a token that no tree keeps is not made at all. A text that this does not read has a mistake; lark then
says what it is.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lark import Lark, Token, Tree
from lark.parsers.lalr_analysis import Shift
from lark.tree import Meta

_BLANK = re.compile(r"[ \t\r\n]*+(?:#[^\n]*+[ \t\r\n]*+)*+")  # takes what it can and gives nothing back
_END = "$END"

# Where something stands: offset, line and column of its begin, and of its end.
_Place = tuple[int, int, int, int, int, int]


class _Rule(NamedTuple):
    """How a right-hand side becomes a tree. `kept` are the places of its children, and whether they are lists."""

    size: int
    origin: str
    name: str
    kept: tuple[tuple[int, bool], ...]
    is_list: bool
    gives_way: bool  # to its only child
    is_passed: bool  # its only child is all that it has


class _Span(NamedTuple):
    """What lark calls the meta of a tree."""

    start_pos: int
    line: int
    column: int
    end_pos: int
    end_line: int
    end_column: int
    empty: bool = False


class Reader:
    """Reads with the tables of an LALR parser, whose contextual lexer has no callbacks."""

    def __init__(self, lark: Lark) -> None:
        reader = lark.parse_interactive("")
        conf = reader.parser_state.parse_conf
        self._start, self._end = conf.start_state, conf.end_state
        rules: dict[Any, _Rule] = {}
        # Of each state what a symbol leads to: another state, or a rule to be applied first.
        self._rows: dict[int, dict[str, Any]] = {}
        for state, row in conf.states.items():
            self._rows[state] = {str(s): w if k is Shift else _rule(w, rules) for s, (k, w) in row.items()}
        self._kept = {s.name for rule in rules for s in rule.expansion if s.is_term and not s.filter_out}
        contextual: Any = reader.lexer_thread.lexer
        self._lexers: dict[int, Any] = contextual.lexers
        self._patterns: dict[int, re.Pattern[str]] = {}  # by state, as they are needed

    def tree(self, text: str) -> Tree[Token] | None:
        """The tree of `text`; None if there is a mistake in it."""
        states: list[int] = [self._start]
        values: list[Any] = []
        places: list[_Place | None] = []
        rows, patterns, kept = self._rows, self._patterns, self._kept
        position, line, line_start = 0, 1, 0
        while True:
            pattern = patterns.get(states[-1]) or self._pattern(states[-1])
            found = pattern.match(text, position)
            if found is None:
                break
            kind: str = found.lastgroup  # type: ignore[assignment]
            start, end = found.span(kind)
            if breaks := text.count("\n", position, start):
                line += breaks
                line_start = text.rindex("\n", position, start) + 1
            position = end
            shifted = rows[states[-1]].get(kind)
            if shifted.__class__ is not int:
                shifted = self._reduced(kind, states, values, places)
                if shifted is None:
                    return None
            place = (start, line, start - line_start + 1, end, line, end - line_start + 1)
            states.append(shifted)
            places.append(place)
            values.append(_token(kind, text[start:end], place) if kind in kept else None)
        if _BLANK.fullmatch(text, position) is None:
            return None
        self._reduced(_END, states, values, places)
        return values[-1] if states[-1] == self._end else None

    def _pattern(self, state: int) -> re.Pattern[str]:
        """One expression for blanks and any of the tokens that may come, in the order of lark's lexer."""
        lexer = self._lexers[state]
        tokens = [f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in lexer.terminals if t.name not in lexer.ignore_types]
        made = self._patterns[state] = re.compile(f"{_BLANK.pattern}(?:{'|'.join(tokens) or '(?!)'})")
        return made

    def _reduced(self, kind: str, states: list[int], values: list[Any], places: list[_Place | None]) -> int | None:
        """Apply the rules that end before a token of `kind`. The state behind the token; None if it cannot come."""
        rows, end = self._rows, self._end
        while states[-1] != end:
            rule = rows[states[-1]].get(kind)
            if rule.__class__ is not _Rule:
                return rule
            size, origin, name, kept, is_list, gives_way, is_passed = rule
            if is_passed:
                states[-1] = rows[states[-2]][origin]
                continue
            children: list[Any] = []
            place = None
            if size:
                parts = values[-size:]
                place = places[-1] if size == 1 else _around(places[-size:])
                for i, flat in kept:
                    if not flat:
                        children.append(parts[i])
                    elif children:
                        children += parts[i]
                    else:
                        children = parts[i]  # a list that grows at its end is not copied
                del states[-size:], values[-size:], places[-size:]
            states.append(rows[states[-1]][origin])
            places.append(place)
            if is_list:
                values.append(children)
            elif gives_way and len(children) == 1:
                values.append(children[0])
            else:
                meta = _META() if place is None else _SPAN(_Span, (*place, False))
                values.append(Tree(name, children, meta))
        return None


_SPAN: Any = tuple.__new__
_META: Any = Meta


def _rule(rule: Any, known: dict[Any, _Rule]) -> _Rule:
    if rule not in known:
        kept = tuple(
            (i, not s.is_term and s.name.startswith("_"))
            for i, s in enumerate(rule.expansion)
            if not (s.is_term and s.filter_out)
        )
        origin = str(rule.origin.name)
        size, name = len(rule.expansion), str(rule.alias or origin)
        gives_way = bool(rule.options.expand1) and not rule.alias
        is_passed = gives_way and size == 1 and len(kept) == 1 and not kept[0][1]
        known[rule] = _Rule(size, origin, name, kept, origin.startswith("_"), gives_way, is_passed)
    return known[rule]


def _around(places: list[_Place | None]) -> _Place | None:
    """From where the first of them begins to where the last ends."""
    first, last = places[0], places[-1]
    if first is None or last is None:
        there = [p for p in places if p is not None]
        if not there:
            return None
        first, last = there[0], there[-1]
    return first if first is last else first[:3] + last[3:]


def _token(kind: str, text: str, place: _Place) -> Token:
    """As `Token(...)`, without its tests of arguments."""
    token = str.__new__(Token, text)
    token.type = kind
    token.value = text
    token.start_pos, token.line, token.column, token.end_pos, token.end_line, token.end_column = place
    return token
