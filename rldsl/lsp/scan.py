"""Which names stand in a `.rl` text and what each is there, also where the text is broken.

The parser gives a graph or an error; an editor must answer while half a statement is typed. So this walks the tokens
and keeps in mind only what can stand at each place (`Mode`); the next statement that begins puts it right again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*) | (?P<string>"(?:\\.|[^"\\\n])*"?) | (?P<name>[^\W\d]\w*)
      | (?P<number>\d[\w.]*) | (?P<op>->|==|!=|<=|>=|//|[^\s\w])""",
    re.VERBOSE,
)


class Kind(StrEnum):
    """What a name stands for."""

    ALGORITHM = "algorithm"
    PARAM = "param"
    MODEL = "model"
    NODE = "node"
    METRIC = "metric"
    OUTPUT = "output"
    FIELD = "field"
    BLOCK = "block"
    FUNCTION = "function"
    METHOD = "method"
    SETTING = "setting"
    ARGUMENT = "argument"
    SOURCE = "source"
    FILE = "file"


class Mode(StrEnum):
    """What can stand at a place."""

    BODY = "statements"
    NEW = "the name that a statement defines"
    HEAD = "what follows that name"
    PARAM_TYPE = "the type of a parameter"
    RANGE = "the values of a parameter"
    MODEL_KIND = "the kind of a model"
    WEIGHTS = "where weights come from"
    FIELD_TYPE = "the type of a field"
    ROWS = "where rows come from"
    ROLE = "the role of a node"
    NODE_TYPE = "the type of a node"
    CALL = "what a node does"
    METHOD = "a method of a model"
    LOSS = "a loss"
    FUNCTION = "a function"
    REDUCTION = "a reduction"
    FIELDS = "fields"
    SETTINGS = "settings"
    EXPR = "an expression over parameters"
    OUTPUTS = "fields written"
    NODES = "nodes"
    AFTER = "the end of a statement"
    FILE = "the name of a file"
    DEPLOY = "layouts"
    CLUSTER = "a kind of hardware"
    PHASE = "a phase"
    PLACED = "a node of a block"
    RANKS = "ranks"
    ENGINE = "an engine"


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the text."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(slots=True)
class Statement:
    """One statement: what it defines and calls, where it stands.

    `block` is the loop or validation around it; `given` the settings that have a value; `joined` the words that join
    its parts; `shared` what a loop carries or collects; `body_end` is one past the bracket that closes what it opened.
    """

    keyword: str
    start: int
    end: int
    block: str = ""
    names: list[str] = field(default_factory=list)
    model: str = ""
    method: str = ""
    function: str = ""
    source: str = ""
    setting: str = ""
    given: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    body_end: int | None = None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A name at its place; `block` is the one named before it, as in `resample.reward`."""

    kind: Kind
    name: str
    start: int
    end: int
    statement: Statement
    defines: bool = False
    block: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """Everything found in a text, in its order.

    Of its end: `mode` says what could stand there, `block` which block is open, `in_call` whether a bracket is.
    """

    tokens: tuple[Token, ...]
    statements: tuple[Statement, ...]
    occurrences: tuple[Occurrence, ...]
    mode: Mode
    block: Statement | None
    in_call: bool

    def at(self, offset: int) -> Occurrence | None:
        """The name that an editor's cursor at `offset` touches."""
        return next((o for o in self.occurrences if o.start <= offset <= o.end), None)

    def statement_at(self, offset: int) -> Statement | None:
        """The statement around `offset`: the last that begins before it."""
        return next((s for s in reversed(self.statements) if s.start <= offset), None)


_DEFINES = {
    "algorithm": Kind.ALGORITHM,
    "param": Kind.PARAM,
    "model": Kind.MODEL,
    "input": Kind.FIELD,
    "node": Kind.NODE,
    "metric": Kind.METRIC,
    "output": Kind.OUTPUT,
    "loop": Kind.BLOCK,
    "validate": Kind.BLOCK,
}
TOP_LEVEL = ("use", "import", "algorithm", "deploy")
IN_ALGORITHM = ("param", "model", "input", "node", "metric", "output", "loop", "validate")
IN_BLOCK: dict[str, tuple[str, ...]] = {
    "algorithm": IN_ALGORITHM,
    "loop": IN_ALGORITHM[3:6],
    "validate": IN_ALGORITHM[2:6],
    "deploy": ("cluster",),
}
_KEYWORDS = frozenset((*TOP_LEVEL, *IN_ALGORITHM))
_OPENS = frozenset(IN_BLOCK)

# Words that join the parts of a statement, and what can stand after each.
CONNECTING: dict[str, dict[str, Mode]] = {
    "param": {"in": Mode.RANGE},
    "model": {"with": Mode.SETTINGS},
    "input": {"with": Mode.SETTINGS},
    "node": {"with": Mode.SETTINGS, "when": Mode.EXPR, "after": Mode.NODES},
    "metric": {"when": Mode.EXPR},
    "output": {"with": Mode.SETTINGS, "when": Mode.EXPR},
    "loop": {
        "max": Mode.EXPR,
        "carry": Mode.FIELDS,
        "collect": Mode.FIELDS,
        "where": Mode.FIELDS,
        "until": Mode.EXPR,
    },
    "validate": {"every": Mode.EXPR},
}
_AFTER_COLON = {
    "param": Mode.PARAM_TYPE,
    "model": Mode.MODEL_KIND,
    "input": Mode.FIELD_TYPE,
    "node": Mode.ROLE,
    "deploy": Mode.ENGINE,
}
_AFTER_EQUALS = {
    "param": Mode.EXPR,
    "model": Mode.WEIGHTS,
    "input": Mode.ROWS,
    "node": Mode.CALL,
    "metric": Mode.REDUCTION,
    "output": Mode.FIELDS,
}
_HEADS = frozenset({Mode.NEW, Mode.HEAD, Mode.PARAM_TYPE, Mode.MODEL_KIND, Mode.FIELD_TYPE, Mode.ROLE, Mode.NODE_TYPE})
# Where one statement may end and the next begin on the same line.
_ENDS = frozenset(
    {Mode.BODY, Mode.AFTER, Mode.EXPR, Mode.OUTPUTS, Mode.NODES, Mode.SETTINGS, Mode.FIELDS, Mode.FILE, Mode.RANGE}
    | {Mode.WEIGHTS}
)
# Where names are no part of a list, and where they are.
_CLOSED = frozenset({Mode.NEW, Mode.BODY, Mode.DEPLOY})
_LISTS = frozenset({Mode.EXPR, Mode.SETTINGS, Mode.FIELDS, Mode.OUTPUTS, Mode.NODES})
_WORDS = frozenset({"and", "or", "not", "true", "false", "none"})
_UNITS = frozenset({"prompts", "samples", "tokens"})
_ORIGINS = frozenset({"frozen", "copy", "shared"})
_JOINED_ON = frozenset({"compute", *_ORIGINS, *(word for words in CONNECTING.values() for word in words)})


def tokens_of(text: str) -> Iterator[Token]:
    """The tokens of any text whatever; white space and comments are left out."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind is not None and kind != "comment":
            yield Token(kind, match[0], match.start(), match.end())


def in_comment(text: str, offset: int) -> bool:
    """Whether `offset` lies within a comment."""
    return any(
        m.lastgroup == "comment" and m.start() < offset <= m.end()
        for m in _TOKEN.finditer(text, text.rfind("\n", 0, offset) + 1, offset)
    )


def scan(text: str) -> Scan:
    """Everything in `text`. Never raises."""
    scanner = _Scanner(text, tuple(tokens_of(text)))
    scanner.run()
    return Scan(
        scanner.tokens,
        tuple(scanner.statements),
        tuple(scanner.occurrences),
        scanner.mode,
        scanner.blocks[-1] if scanner.blocks else None,
        bool(scanner.brackets),
    )


def wants_name(before: Token) -> bool:
    """Whether a name must follow `before`, so that even a word of the language is one."""
    if before.kind == "op":
        return before.text not in (")", "]", "?", "}")
    return before.kind == "name" and before.text in (*_WORDS, *_JOINED_ON)


class _Scanner:
    def __init__(self, text: str, tokens: tuple[Token, ...]) -> None:
        self.text, self.tokens = text, tokens
        self.statements: list[Statement] = []
        self.occurrences: list[Occurrence] = []
        self.blocks: list[Statement] = []
        self.mode = Mode.BODY
        self.brackets: list[bool] = []  # of each open one, whether it belongs to a call
        self.now = Statement("", 0, 0)
        self.index = 0

    def run(self) -> None:
        for index, token in enumerate(self.tokens):
            self.index = index
            before = self.tokens[index - 1] if index else None
            after = self.tokens[index + 1] if index + 1 < len(self.tokens) else None
            if self.begins(token, before, after):
                self.begin(token)
            elif token.kind == "name":
                self.name(token, before, after)
            elif token.kind == "string":
                self.string(token)
            elif token.kind == "op":
                self.operator(token)
            if self.mode is not Mode.BODY:
                self.now.end = token.end

    def begins(self, token: Token, before: Token | None, after: Token | None) -> bool:
        """Whether a statement begins here: the words for that are names elsewhere."""
        if token.kind != "name" or token.text not in _KEYWORDS:
            return False
        first = before is None or self.apart(before, token)
        if first and (after is None or self.apart(token, after)):
            return True
        fits = after is None or self.fits(token.text, after)
        if first or (before and before.text in ("{", "}")):
            return fits
        if self.brackets or self.mode not in _ENDS or before is None or before.text in _JOINED_ON:
            return False
        return fits and (before.kind != "op" or before.text in (")", "]", "?"))

    def fits(self, keyword: str, after: Token) -> bool:
        """Whether what follows is what follows `keyword` where it begins a statement."""
        if keyword in ("use", "import"):
            return after.kind == "string"
        return after.text == "{" if keyword == "deploy" else after.kind == "name"

    def apart(self, one: Token, other: Token) -> bool:
        return "\n" in self.text[one.end : other.start]

    def begin(self, token: Token) -> None:
        if token.text in TOP_LEVEL:
            self.blocks.clear()
        self.brackets.clear()
        block = self.blocks[-1] if self.blocks else None
        name = block.names[0] if block and block.keyword in ("loop", "validate") and block.names else ""
        self.now = Statement(token.text, token.start, token.end, name)
        self.statements.append(self.now)
        self.mode = {"use": Mode.FILE, "import": Mode.FILE, "deploy": Mode.HEAD}.get(token.text, Mode.NEW)

    def found(self, kind: Kind, token: Token, *, defines: bool = False, block: str = "") -> None:
        self.occurrences.append(Occurrence(kind, token.text, token.start, token.end, self.now, defines, block))

    def string(self, token: Token) -> None:
        if self.mode is Mode.FILE:
            self.now.names.append(token.text.strip('"'))
            self.found(Kind.FILE, token)
            self.mode = Mode.AFTER

    # Names.

    def name(self, token: Token, before: Token | None, after: Token | None) -> None:
        joins = CONNECTING.get(self.now.keyword, {}).get(token.text)
        wanted = before is not None and wants_name(before)
        if joins and not self.brackets and self.mode not in _CLOSED and not wanted:
            self.mode, self.now.setting = joins, ""
            self.now.joined.append(token.text)
        elif self.mode in _LISTS and not wanted and token.text not in (*_WORDS, *_UNITS):
            # Two names side by side: this one begins something that we do not know.
            self.mode = self.mode if self.brackets else Mode.BODY
        else:
            self.by_mode(token, before, after)

    def by_mode(self, token: Token, before: Token | None, after: Token | None) -> None:
        follows = after.text if after else ""
        match self.mode:
            case Mode.NEW:
                self.now.names.append(token.text)
                self.found(_DEFINES.get(self.now.keyword, Kind.FIELD), token, defines=True)
                self.mode = Mode.HEAD
            case Mode.EXPR:
                unit = token.text in _UNITS and before is not None and before.kind == "number"
                if token.text not in _WORDS and not unit:
                    self.found(Kind.PARAM, token)
            case Mode.SETTINGS:
                self.now.given.append(token.text)
                self.now.setting = token.text
                self.found(Kind.SETTING if follows == "=" else Kind.PARAM, token)
            case Mode.FIELDS:
                self.found(Kind.ARGUMENT if follows == "=" else Kind.FIELD, token)
                if self.now.keyword == "loop" and self.now.joined[-1:] in (["carry"], ["collect"]):
                    self.now.shared.append(token.text)
            case Mode.OUTPUTS:
                self.now.names.append(token.text)
                self.found(Kind.FIELD, token, defines=True)
            case Mode.NODES:
                self.found(Kind.NODE, token)
            case _:
                self.called(token, follows)

    def called(self, token: Token, follows: str) -> None:
        """Names in what a statement calls."""
        match self.mode:
            case Mode.WEIGHTS if token.text not in _ORIGINS and follows != "(":
                self.found(Kind.MODEL, token)
                self.mode = Mode.AFTER
            case Mode.ROWS | Mode.WEIGHTS if token.text not in _ORIGINS:
                self.now.source = token.text
                self.found(Kind.SOURCE, token)
            case Mode.CALL if token.text == "compute" and follows != ".":
                self.mode = Mode.FUNCTION
            case Mode.CALL:
                self.now.model = token.text
                self.found(Kind.MODEL, token)
            case Mode.METHOD:
                self.now.method = token.text
                self.found(Kind.METHOD, token)
                self.mode = Mode.LOSS if token.text == "train" else Mode.HEAD
            case Mode.FUNCTION | Mode.LOSS:
                self.now.function = token.text
                self.found(Kind.FUNCTION, token)
            case Mode.DEPLOY if token.text == "cluster" and follows != ".":
                self.now.method = token.text
                self.mode = Mode.CLUSTER
            case Mode.DEPLOY | Mode.RANKS:
                self.deployed(token, follows)
            case Mode.PLACED:
                self.found(Kind.NODE, token, block=self.now.model)
                self.mode = Mode.DEPLOY
            case Mode.PHASE:
                self.now.method = token.text
                self.mode = Mode.HEAD
            case Mode.CLUSTER if token.text != "x":
                self.mode = Mode.DEPLOY

    def deployed(self, token: Token, follows: str) -> None:
        """`actor` of `actor.train : ...`, `reward` of `reward on 4..7`, `resample` of `resample.reward on 4`, `on`."""
        before = self.tokens[self.index - 1]
        if token.text == "on" and self.mode is Mode.DEPLOY and before.text != "{" and not self.apart(before, token):
            self.mode = Mode.RANKS
            return
        after = self.tokens[self.index + 3].text if self.index + 3 < len(self.tokens) else ""
        placed = follows == "on" or (follows == "." and after == "on")
        kind = Kind.MODEL if not placed else Kind.NODE if follows == "on" else Kind.BLOCK
        self.now.model = token.text
        self.found(kind, token)
        self.mode = Mode.PLACED if kind is Kind.BLOCK else Mode.DEPLOY

    # Everything between names.

    def operator(self, token: Token) -> None:
        if token.text == "}":
            self.close_block(token)
        elif self.mode is not Mode.BODY and token.text in _OPERATORS:
            _OPERATORS[token.text](self)

    def dot(self) -> None:
        if self.tokens[self.index - 1].kind == "name":
            self.mode = {Mode.CALL: Mode.METHOD, Mode.DEPLOY: Mode.PHASE}.get(self.mode, self.mode)

    def colon(self) -> None:
        if self.mode in _HEADS:
            self.mode = _AFTER_COLON.get(self.now.keyword, self.mode)

    def equals(self) -> None:
        if self.mode is Mode.SETTINGS:
            self.mode = Mode.EXPR
        elif self.mode in _HEADS and not self.brackets:
            self.mode = _AFTER_EQUALS.get(self.now.keyword, self.mode)

    def comma(self) -> None:
        if self.mode is Mode.HEAD and self.now.keyword == "input":
            self.mode = Mode.NEW
        elif self.mode is Mode.ROLE:
            self.mode = Mode.NODE_TYPE
        elif self.mode is Mode.EXPR and self.now.setting:
            self.mode = Mode.SETTINGS

    def semicolon(self) -> None:
        self.mode, self.now.setting = Mode.SETTINGS, ""

    def arrow(self) -> None:
        self.mode = Mode.OUTPUTS
        self.brackets.clear()

    def open_bracket(self) -> None:
        nested = self.mode in (Mode.EXPR, Mode.RANGE)
        self.brackets.append(not nested)
        if nested:
            return
        if self.mode in (Mode.WEIGHTS, Mode.ROWS):
            self.mode, self.now.setting = Mode.EXPR, ""
        elif self.now.keyword == "deploy":
            self.mode = Mode.SETTINGS
        else:
            self.mode = Mode.FIELDS

    def close_bracket(self) -> None:
        if self.brackets and self.brackets.pop():
            self.mode = Mode.DEPLOY if self.now.keyword == "deploy" else Mode.AFTER
            self.now.setting = ""

    def open_square(self) -> None:
        if self.mode is Mode.RANGE:
            self.brackets.append(False)

    def close_square(self) -> None:
        if self.mode is Mode.RANGE and self.brackets:
            self.brackets.pop()

    def open_block(self) -> None:
        if self.now.keyword in _OPENS and self.mode is not Mode.DEPLOY:
            self.blocks.append(self.now)
            self.brackets.clear()
            self.mode = Mode.DEPLOY if self.now.keyword == "deploy" else Mode.BODY

    def close_block(self, token: Token) -> None:
        if self.mode is Mode.RANGE:
            self.mode = Mode.AFTER
            return
        if self.blocks:
            self.blocks.pop().body_end = token.end
        self.brackets.clear()
        self.mode = Mode.BODY


_OPERATORS: dict[str, Callable[[_Scanner], None]] = {
    ".": _Scanner.dot,
    ":": _Scanner.colon,
    "=": _Scanner.equals,
    ",": _Scanner.comma,
    ";": _Scanner.semicolon,
    "->": _Scanner.arrow,
    "(": _Scanner.open_bracket,
    ")": _Scanner.close_bracket,
    "{": _Scanner.open_block,
    "[": _Scanner.open_square,
    "]": _Scanner.close_square,
}
