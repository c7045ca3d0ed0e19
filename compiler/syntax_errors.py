"""The syntax tree of `.rl` text, right or wrong: names each syntax error, leaves the faulty statement out and reads on.

Reading goes statement by statement: an error drops what the parser has of the statement, its text is skipped up to
where the next one begins, and the parser goes on from the state in which a statement can begin. So each character is
read a bounded number of times, and one run shows the errors of all statements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternRE, PatternStr, TerminalDef
from lark.parsers.lalr_analysis import Shift

from rldsl.compiler.lalr import Reader
from rldsl.compiler.lexemes import BODY, STATEMENTS, TOP, Source
from rldsl.compiler.syntax_rules import Fault, Said, advice, article
from rldsl.diagnostics import Diagnostic, Diagnostics, Label, did_you_mean

MOST_ERRORS = 20
_MOST_STEPS = 1000
_NOT_NAMES = frozenset((*STATEMENTS, "compute", "with", "when", "after", "true", "false", "none", "and", "or", "not"))


@cache
def parser() -> Lark:
    """The parser of `grammar/rl.lark`, with positions."""
    grammar = files("rldsl.grammar").joinpath("rl.lark").read_text(encoding="utf-8")
    return Lark(
        grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False, edit_terminals=_end_at_words
    )


@cache
def _reader() -> Reader:
    return Reader(parser())


def _end_at_words(terminal: TerminalDef) -> TerminalDef:
    """Keywords end where a word ends: lark's contextual lexer would read `nodes` as `node s`."""
    words = terminal.pattern.value.replace("|", "").strip("(?:)")
    if words.isalpha() and isinstance(terminal.pattern, PatternStr | PatternRE):
        terminal.pattern = PatternRE(rf"{terminal.pattern.to_regexp()}\b")
        terminal.priority = 1  # over NAME, which matches the same
    return terminal


def parse_tree(text: str, file: str, found: Diagnostics) -> tuple[Tree[Token], frozenset[str]]:
    """The tree of `text` without its faulty statements, and the names that those mention.

    Adds one RL0102 to `found` for each faulty statement, at most `MOST_ERRORS`; behind the last of so many nothing
    is read. Raises nothing. What the names stand for is unknown, so an error about one of them is no news.
    """
    tree = _reader().tree(text)
    if tree is not None:
        return tree, frozenset()
    try:
        return parser().parse(text), frozenset()
    except UnexpectedInput:
        recovery = _Recovery(Source(text, file), found)
        return recovery.read(), frozenset(recovery.poisoned)


@dataclass
class _Block:
    """An open block. `virtual`: unknown to the parser; `colon`: begun by `:`, as in Python; `supplied`: begun by us."""

    word: str
    start: int
    kind: str = "real"


class _Recovery:
    """One reading of a text with errors. Mirrors the blocks that the parser is in."""

    def __init__(self, source: Source, found: Diagnostics) -> None:
        self.source, self.found = source, found
        reader = parser().parse_interactive(source.text)
        self.state, self.lexer = reader.parser_state, reader.lexer_thread
        self.rows: dict[Any, dict[str, Any]] = self.state.parse_conf.states
        # The states in which a statement, or the end of the block, can come.
        self.between = {s for s, row in self.rows.items() if any(_shifts(row, w) for w in STATEMENTS)}
        self.blocks: list[_Block] = []
        self.poisoned: set[str] = set()
        self.start: int | None = None  # where the statement being read begins; None where none has begun
        self.closed: tuple[list[Any], list[Any], _Block] | None = None  # how it was before the last algorithm's `}`
        self.beside: list[Any] = []  # what has been read behind an algorithm that then went on
        self.suspect: _Block | None = None  # its `}` stands left of it, so it may be another block's
        self.spare = 0  # how many `}` may come that close nothing
        self.cut = False  # the text ends within a statement
        self.errors = self.steps = 0

    def read(self) -> Tree[Token]:
        """The tree."""
        while self.steps < _MOST_STEPS:
            try:
                return self._read()
            except UnexpectedInput as error:
                if self.errors == MOST_ERRORS:
                    break
                self.steps += 1
                self._recover(error)
        rest = self.lexer.state.line_ctr.char_pos
        self._poison(self.source.index(rest), len(self.source.words))
        self._leave()
        self._close_all()
        return self._end()

    def _read(self) -> Tree[Token]:
        for token in self.lexer.lex(self.state):  # type: ignore[no-untyped-call]
            if not self._closes_virtual(token):
                self._close_dedented(token)
                self.state.feed_token(token)
                self._note(token)
        return self._end()

    def _end(self) -> Tree[Token]:
        tree = self.state.feed_token(Token("$END", ""), True)
        assert isinstance(tree, Tree)
        tree.children += self.beside
        return tree

    # Following the parser

    def _note(self, token: Token) -> None:
        """Keep up with a token that the parser has taken."""
        place = token.start_pos or 0
        if self.state.state_stack[-2] in self.between:
            if token.type == "RBRACE":
                self._note_close(place)
            else:
                self.start = place
        elif token.type == "LBRACE" and self.state.position in self.between:
            start = self.start or 0
            self.blocks.append(_Block(self.source.word(self.source.index(start)).text, start))
            self.start = None

    def _note_close(self, place: int) -> None:
        block = self.blocks.pop()
        first = self.source.word(self.source.index(place)).first
        if first and self.source.column(place) < self.source.column(block.start):
            self.suspect = self.suspect or block
        self._keep(block, len(self.state.state_stack) - 1)
        self.start = None

    def _keep(self, block: _Block, depth: int) -> None:
        """Note how it was before an algorithm's `}`, when the parser's stack had `depth` entries."""
        if block.word == "algorithm":
            # lark appends to a list of statements in place, so those must be copied.
            values = [
                Tree(v.data, list(v.children), v.meta) if isinstance(v, Tree) else v for v in self.state.value_stack
            ]
            self.closed = (self.state.state_stack[:depth], values[: depth - 1], block)

    def _closes_virtual(self, token: Token) -> bool:
        if token.type != "RBRACE" or not self.blocks or self.blocks[-1].kind != "virtual" or not self._complete():
            return False
        self._finish()
        self.blocks.pop()
        return True

    def _close_dedented(self, token: Token) -> None:
        """A loop begun by `:` ends where a statement stands no deeper than it."""
        block = self.blocks[-1] if self.blocks else None
        if block is None or block.kind != "colon" or block.word == "algorithm" or token.type == "RBRACE":
            return
        place = token.start_pos or 0
        first = self.source.word(self.source.index(place)).first
        if first and self.source.column(place) <= self.source.column(block.start) and self._complete():
            self._close()

    def _stack_before(self, terminal: str) -> list[Any] | None:
        """The stack of states in which the parser would take `terminal` next; None if it would not."""
        stack = list(self.state.state_stack)
        while True:
            action, what = self.rows[stack[-1]].get(terminal, (None, None))
            if action is None:
                return None
            if action is Shift:
                return stack
            del stack[len(stack) - len(what.expansion) :]
            stack.append(self.rows[stack[-1]][what.origin.name][1])

    def _accepts(self) -> frozenset[str]:
        return frozenset(t for t in self.rows[self.state.position] if t.isupper() and self._stack_before(t) is not None)

    def _ender(self) -> str | None:
        """What could come here if the statement ended; None within one."""
        for terminal in ("RBRACE", "USE"):
            stack = self._stack_before(terminal)
            if stack and stack[-1] in self.between:
                return terminal
        return None

    def _complete(self) -> bool:
        return self._ender() is not None

    # Steering the parser

    def _feed(self, terminal: str, text: str) -> None:
        counter = self.lexer.state.line_ctr
        token = Token(terminal, text, counter.char_pos, counter.line, counter.column, counter.line, counter.column)
        token.end_pos = counter.char_pos
        self.state.feed_token(token)

    def _finish(self) -> None:
        """Make the parser complete the statement that it has read."""
        ender = self._ender()
        assert ender is not None
        self._feed(ender, "")
        self._pop()
        self.start = None

    def _pop(self) -> None:
        self.state.state_stack.pop()
        self.state.value_stack.pop()

    def _drop(self) -> None:
        """Make the parser forget the statement that it is in."""
        while self.state.position not in self.between:
            self._pop()
        self.start = None

    def _leave(self) -> None:
        """To the end of the statement: complete it if that can be, else forget it."""
        if self._complete():
            self._finish()
        else:
            self._drop()

    def _open(self, word: str, name: str, start: int, kind: str = "supplied") -> None:
        self._feed(word.upper(), word)
        if word == "algorithm":
            self._feed("NAME", name)
        self._feed("LBRACE", "{")
        self.blocks.append(_Block(word, start, kind))
        self.start = None

    def _close(self) -> None:
        block = self.blocks.pop()
        if block.kind != "virtual":
            self._finish()
            self._keep(block, len(self.state.state_stack))
            self._feed("RBRACE", "}")
            self._finish()

    def _close_all(self) -> None:
        while self.blocks:
            self._close()

    def _go_to(self, index: int) -> None:
        place = self.source.word(index).start if index < len(self.source.words) else len(self.source.text)
        counter = self.lexer.state.line_ctr
        counter.char_pos, counter.line_start_pos = place, self.source.line_start(place)
        counter.line, counter.column = self.source.line(place), self.source.column(place)

    # What to do about an error

    def _recover(self, error: UnexpectedInput) -> None:
        index = self.source.index(self._place(error))
        at_end = index >= len(self.source.words)
        word, after = self.source.word(index), self.source.word(index + 1)
        if not self._complete():
            self._incomplete(self.source.index(self.start or 0), index)
            self.cut = at_end
        elif at_end:
            self._unclosed_at_end()
        elif self.start is None or word.first or word.text == "}":
            self._finish()
            self._fresh(index)
        elif word.text in (",", ";") and (after.first or after.text == "}"):
            self._say(Said(f"a statement ends without `{word.text}`", fix=f"remove the `{word.text}`"), index)
            self._finish()
            self._go_to(index + 1)
        else:
            self._fault(self.source.index(self.start), index)

    def _incomplete(self, first: int, index: int) -> None:
        word = self.source.word(first).text
        if self.blocks and self.blocks[-1].word == "deploy" and word in BODY and self.source.is_statement(first):
            self._drop()  # it was read as the name of a model
            self._misplaced(first, word)
        else:
            self._fault(first, index)

    def _place(self, error: UnexpectedInput) -> int:
        if isinstance(error, UnexpectedToken) and error.token.type != "$END":
            return error.token.start_pos or 0
        return error.pos_in_stream or 0 if isinstance(error, UnexpectedCharacters) else len(self.source.text)

    def _fault(self, first: int, index: int) -> None:
        """Report what is wrong at word `index` of the statement that begins at `first`, and leave it out."""
        end, opened = self.source.statement(first)
        word = self.source.word(first).text
        inside = self.blocks[-1].word if self.blocks else ""
        kind = "layout" if inside == "deploy" and word not in STATEMENTS else word
        fault = Fault(
            source=self.source,
            first=first,
            end=end,
            at=min(index, end),
            kind="" if self.start is None else kind,
            accepts=self._accepts(),
            complete=self._complete(),
            inside=inside,
        )
        said = advice(fault)
        self._say(said, index if index < end else end - 1)
        if said.begins_block:
            return self._begin_block(index)
        self._poison(first, end)
        self._drop()
        if opened:
            self._enter(word, first)
        self._go_to(end)
        return None

    def _begin_block(self, index: int) -> None:
        """The statements of a block follow, but no `{`."""
        start, colon = self.start or 0, self.source.word(index).text == ":"
        self._feed("LBRACE", "{")
        word = self.source.word(self.source.index(start)).text
        self.blocks.append(_Block(word, start, "colon" if colon else "real"))
        self.start = None
        self._go_to(index + colon)

    def _enter(self, word: str, first: int) -> None:
        """Read on in the block whose first line was left out."""
        start = self.source.word(first).start
        if self.blocks and self._stack_before("VALIDATE"):
            self._open_scope(word, first)
        elif self.blocks:
            self.blocks.append(_Block(word, start, "virtual"))
        elif self.closed:
            self._reopen()
            self.blocks.append(_Block(word, start, "virtual"))
        else:
            near = "deploy" if word == "deploy" or did_you_mean(word, ["deploy"]) else "algorithm"
            self._open(near, "", start, "real")

    def _open_scope(self, word: str, first: int) -> None:
        """A block of its own for the statements behind a head that was left out: names in it are no second ones."""
        name = self.source.word(first + 1)
        for terminal, text in (
            ("VALIDATE", "validate"),
            ("NAME", name.text if name.kind == "name" else word),
            ("EVERY", "every"),
            ("INT", "1"),
            ("LBRACE", "{"),
        ):
            self._feed(terminal, text)
        self.blocks.append(_Block(word, self.source.word(first).start))
        self.start = None

    def _fresh(self, index: int) -> None:
        """Something stands where a statement can begin, and does not begin one that may stand here."""
        word = self.source.word(index)
        if word.text == "}":
            self._close_nothing(index)
        elif not self.blocks and self.closed and self.spare and word.text not in TOP:
            self.spare -= 1  # it was we who closed the algorithm, for a statement that stands beside one
            self._reopen()
            self._go_to(index)
        elif word.text in STATEMENTS and self.source.is_statement(index):
            self._misplaced(index, word.text)
        else:
            self._fault(index, index)

    def _close_nothing(self, index: int) -> None:
        if self.blocks:
            self.blocks.pop()  # a virtual one: the parser would have taken the `}` of another
        elif self.spare:
            self.spare -= 1
        else:
            self._say(Said("this `}` closes nothing", fix="remove it, or find the `{` that is missing"), index)
        self._go_to(index + 1)

    def _misplaced(self, index: int, word: str) -> None:
        """A statement of the language that cannot stand here."""
        if not self.blocks and word in BODY:
            return self._outside(index, word)
        block = self.blocks[-1] if self.blocks else None
        column = self.source.column(self.source.word(index).start)
        left = block is not None and column <= self.source.column(block.start)
        if block and word in ("algorithm", "deploy") and (left or len(self.blocks) == 1):
            return self._unclosed_before(index, word, 0 if left else len(self.blocks))
        if block and left and block.word in ("loop", "validate"):
            return self._unclosed_before(index, word, 0)
        return self._skip_misplaced(index, word)

    def _outside(self, index: int, word: str) -> None:
        """A statement of an algorithm's at top level: as if it stood in the algorithm."""
        message = f"`{word}` stands outside of the `algorithm` block"
        if self.closed:
            line = self.source.line(self.source.word(index).start)
            began = self.source.line(self._reopen().start)
            fix = f"remove the `}}` that ends the block of line {began} before line {line}"
        else:
            fix = "put it between `algorithm NAME {` and `}`"
            self._open("algorithm", "", self.source.word(index).start)
        self._say(Said(message, fix=fix), index)
        self._go_to(index)

    def _reopen(self) -> _Block:
        """Back to before the last algorithm's `}`."""
        assert self.closed is not None
        states, values, block = self.closed
        read = self.state.value_stack[-1].children
        self.beside += read[1 + max(i for i, tree in enumerate(read) if tree.data == "algorithm") :]
        self.state.state_stack[:], self.state.value_stack[:] = states, values
        self.blocks, self.closed, self.start = [block], None, None
        return block

    def _unclosed_before(self, index: int, word: str, spare: int) -> None:
        block = self.blocks[-1]
        if block.kind == "real":
            self._say(self._not_closed(block, f" before this `{word}`"), index)
        top = word in TOP
        while self.blocks and (top or self.blocks[-1] is block):
            self._close()
        self.spare += spare
        self._go_to(index)

    def _skip_misplaced(self, index: int, word: str) -> None:
        inside = self.blocks[-1].word if self.blocks else ""
        home = {"cluster": "inside the `deploy` block", "use": "before the `algorithm` block"}
        home |= {"import": home["use"], "algorithm": "at top level", "deploy": "at top level"}
        where = home.get(word, "inside the `algorithm` block")
        said = Said(f"{article(word)} stands {where}" + (f", not inside `{inside}`" if inside else ""))
        if inside in ("loop", "validate") and word in BODY:
            why = "blocks do not nest" if word in ("loop", "validate") else "it belongs to the algorithm"
            said = Said(f"`{word}` cannot stand inside a `{inside}` block: {why}", fix="move it out of the block")
        self._say(said, index)
        end, opened = self.source.statement(index)
        self._poison(index, end)
        if opened:
            self.blocks.append(_Block(word, self.source.word(index).start, "virtual"))
        self._go_to(end)

    def _unclosed_at_end(self) -> None:
        real = [b for b in self.blocks if b.kind == "real"]
        if real and not self.cut:
            self._say(self._not_closed(self.suspect or real[-1], ""), len(self.source.words))
        self._close_all()

    def _not_closed(self, block: _Block, where: str) -> Said:
        start = block.start
        begin = self.source.span(start, start + len(block.word))
        fix = f"close it with `}}`; it began at line {self.source.line(start)}"
        label = Label(span=begin, message="it begins here")
        return Said(f"the `{block.word}` block is not closed{where}", fix=fix, expected="`}`", labels=(label,))

    def _say(self, said: Said, index: int) -> None:
        """Report it at word `index`, or at the place of its own."""
        word = self.source.word(index)
        end = self.source.words[-1].end if self.source.words else 0  # the line of it is there to be shown
        start, stop = (word.start, word.end) if word.text else (end, end + 1)
        if said.at is not None:
            start, stop = self.source.word(said.at).start, self.source.word(said.to or said.at).end
        diagnostic = Diagnostic(
            code="RL0102",
            message=said.message,
            span=self.source.span(start, stop),
            expected=said.expected,
            found=said.found,
            fix=said.fix,
            labels=said.labels,
        )
        self.found.add(diagnostic)
        self.errors += 1

    def _poison(self, first: int, end: int) -> None:
        words = self.source.words[first:end]
        self.poisoned |= {w.text for w in words if w.kind == "name"} - _NOT_NAMES


def _shifts(row: dict[str, Any], word: str) -> bool:
    action = row.get(word.upper())
    return action is not None and action[0] is Shift
