"""What to say about a faulty statement: the common mistakes by name, the rest by what could stand there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from rldsl.compiler.lexemes import BLOCKS, BODY, NOTHING, TOP, Lexeme, Source
from rldsl.compiler.syntax_words import FOREIGN, FORMS, LOGIC, PYTHON, QUOTES, SPELLING, TERMINALS, type_of
from rldsl.diagnostics import Label, did_you_mean

_VALUES = ("number", "string", "open_string", "quoted")
_OPEN, _CLOSING = {"(": ")", "[": "]", "{": "}"}, {")": "(", "]": "[", "}": "{"}
_LONGEST = 40  # characters of the text that a message quotes
ARROW = "__ANON_0"


@dataclass(frozen=True)
class Said:
    """The parts of a diagnostic. `at` and `to`: the words (by index) that it is about, if not the one found.

    `begins_block`: only the `{` is missing.
    """

    message: str
    fix: str | None = None
    expected: str | None = None
    found: str | None = None
    at: int | None = None
    to: int | None = None
    labels: tuple[Label, ...] = ()
    begins_block: bool = False


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A statement, words `first` to `end` of `source`, that goes wrong at word `at` (`end`: it breaks off).

    `kind` is its first word, empty where no statement begins so; `accepts` the terminals that could stand at `at`;
    `complete` whether the statement could have ended there; `inside` the block that it stands in.
    """

    source: Source
    first: int
    end: int
    at: int
    kind: str
    accepts: frozenset[str]
    complete: bool
    inside: str

    def word(self, offset: int) -> Lexeme:
        """The word `offset` words from the wrong one; an empty one outside of the statement."""
        index = self.at + offset
        return self.source.words[index] if self.first <= index < self.end else NOTHING

    @property
    def found(self) -> Lexeme:
        """The wrong word; empty where the statement breaks off."""
        return self.word(0)

    @property
    def broken_off(self) -> bool:
        """Whether the statement ends too early."""
        return self.at >= self.end

    @cached_property
    def opened(self) -> int | None:
        """The innermost bracket that is open at the wrong word, by index."""
        stack: list[int] = []
        for index in range(self.first, self.at):
            text = self.source.words[index].text
            if text in _OPEN:
                stack.append(index)
            elif text in _CLOSING and stack:
                stack.pop()
        return stack[-1] if stack else None

    @property
    def bracket(self) -> str:
        """`(`, `[`, `{`, or nothing."""
        return self.source.words[self.opened].text if self.opened is not None else ""

    def has_before(self, text: str) -> bool:
        """Whether `text` stands between the open bracket, or the statement's start, and the wrong word."""
        since = self.first if self.opened is None else self.opened
        return any(w.text == text for w in self.source.words[since : self.at])

    def closes(self) -> bool:
        """Whether the open bracket is closed further on in the statement."""
        depth = 0
        for word in self.source.words[self.at : self.end]:
            if word.text == _OPEN.get(self.bracket) and not depth:
                return True
            depth += (word.text in _OPEN) - (word.text in _CLOSING)
        return False


def article(word: str) -> str:
    """`a node`, `an input`: how messages call a statement."""
    name = {"param": "parameter", "use": "`use` line", "import": "`import` line"}
    name |= {"deploy": "`deploy` block", "validate": "`validate` block"}
    said = name.get(word, word)
    return f"{'an' if said[0] in 'aeio' else 'a'} {said}"


def quote(text: str) -> str:
    """Text of the user's within a message."""
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"`{shown if shown.isprintable() else ascii(shown)[1:-1]}`"


def advice(fault: Fault) -> Said:
    """What to say: the first rule that knows the mistake, else what could stand there."""
    said = next((s for rule in _RULES if (s := rule(fault))), None) or _general(fault)
    if said.found is None and fault.found.text and said.at is None:
        said = replace(said, found=quote(fault.found.text))
    return said


def _general(fault: Fault) -> Said:
    shape = FORMS.get(fault.kind)
    if fault.broken_off:
        last = fault.end - 1
        message = f"{article(fault.kind)} breaks off after {quote(fault.source.words[last].text)}"
        return Said(message, fix=shape, at=last)
    where = f"in {article(fault.kind)}" if fault.kind else "here"
    return Said(f"{quote(fault.found.text)} does not fit {where}", fix=shape, expected=_expected(fault.accepts))


def _expected(accepts: frozenset[str]) -> str | None:
    """At most four things that could stand there, in words; nothing where there are more."""
    if {"INT", "STRING"} <= accepts:
        return "a value" if "MINUS" in accepts else "a constant"
    shown = list(dict.fromkeys(TERMINALS[t] for t in sorted(accepts) if t in TERMINALS))
    if not shown or len(shown) > 4:
        return None
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " or " + shown[-1]


# Strings, comments, characters


def _string(fault: Fault) -> Said | None:
    if fault.found.kind == "open_string":
        return Said("this string is not closed", fix='end it with `"` on the same line')
    if fault.found.kind == "quoted" or fault.found.text == "'":
        inner = fault.found.text.strip("'")
        return Said(
            "a string stands in double quotes", fix=f"write {quote(chr(34) + inner + chr(34))}" if inner else None
        )
    if fault.found.kind == "string" and '""' in (fault.found.text, fault.word(-1).text):
        return Said(
            "a string ends on its line: there are no triple quotes", fix='write `"..."`; a comment begins with `#`'
        )
    return None


def _comment(fault: Fault) -> Said | None:
    """`// so`, also where `//` was read as a division."""
    at = fault.at
    while not fault.broken_off and at > fault.first and not fault.source.words[at].first:
        if fault.source.words[at].text in ("//", "/*"):
            break
        at -= 1
    text = fault.source.word(at).text
    if text not in ("//", "/*") or (at == fault.at and "MULTIPLY" in fault.accepts):
        return None
    return Said("a comment begins with `#`", fix=f"write `#` in place of `{text}`", at=at)


def _character(fault: Fault) -> Said | None:
    text = fault.found.text
    if text in QUOTES:
        return Said("a string stands in plain double quotes", fix='write `"` in place of ' + quote(text))
    if text in SPELLING:
        return Said(f"{quote(text)} is no character of the language", fix=f"write `{SPELLING[text]}`")
    if text == "\ufeff":
        return Said("the text begins with a byte-order mark", fix="save the file as UTF-8 without it")
    if text and not text.isascii():
        return Said(f"{quote(text)} cannot stand outside of a string", fix="names hold ASCII letters, digits and `_`")
    return None


def _operator(fault: Fault) -> Said | None:
    text = fault.found.text
    if text in LOGIC:
        return Said(f"{quote(text)} is no operator of the language", fix=LOGIC[text])
    if fault.found.kind == "mark" and text in ("==", "!=", "<", ">", "<=", ">=") and fault.has_before("when"):
        return Said("comparisons do not chain", fix="join two of them with `and`: `0 < x and x < 1`")
    return None


def _number(fault: Fault) -> Said | None:
    found, last, after = fault.found, fault.word(-1), fault.word(1)
    if found.text == "." and after.kind == "number" and after.start == found.end and last.kind != "number":
        return Said("a number begins with a digit", fix=f"write `0.{after.text}`", at=fault.at, to=fault.at + 1)
    if found.text == "." and last.kind == "number":
        return Said("a number does not end with `.`", fix=f"write `{last.text}.0`", at=fault.at - 1, to=fault.at)
    if last.kind != "number" or found.kind != "name" or found.first:
        return None
    if found.start == last.end:
        return Said(f"{quote(last.text + found.text)} is neither a number nor a name", at=fault.at - 1, to=fault.at)
    units = ("prompts", "samples", "tokens")
    hint = did_you_mean(found.text, units) if "UNIT" in fault.accepts else None
    return Said(f"unknown unit {quote(found.text)}", fix=hint, expected=", ".join(units)) if hint else None


# Statements


def _foreign(fault: Fault) -> Said | None:
    """Words of Python and its like where a statement should begin."""
    word = fault.found.text
    if fault.kind == "import" and fault.found.kind == "name":
        return Said(
            "an `import` takes a file of the language", fix='`import "base.rl"`; Python comes by `use "mine.py"`'
        )
    if fault.kind or word not in PYTHON:
        return None
    return Said(f"`{word}` begins no statement of the language", fix=PYTHON[word])


def _unknown_statement(fault: Fault) -> Said | None:
    if fault.kind:
        return None
    word = fault.found
    known = {"": TOP, "algorithm": BODY, "deploy": ("cluster",), "validate": ("input", "node", "metric", "output")}
    allowed = known.get(fault.inside, ("node", "metric", "output"))
    expected = ", ".join(f"`{w}`" for w in allowed)
    if word.kind != "name":
        return Said(f"no statement begins with {quote(word.text)}", expected=expected)
    if fault.inside not in ("", "deploy") and (hint := _headless(fault)):
        return Said("a statement begins with the word for what it declares", fix=hint, expected=expected)
    hint = did_you_mean(word.text, allowed) or did_you_mean(word.text, (*TOP, *BODY, "cluster"))
    if hint is None and not fault.inside:
        hint = FORMS["algorithm"]
    return Said(f"`{quote(word.text)[1:-1]}` begins no statement", fix=hint, expected=expected)


def _headless(fault: Fault) -> str | None:
    """`x = compute ...`, `lr : float = 0.1`, `actor.train : fsdp(...)` without the word before."""
    name, mark, value = fault.found.text, fault.word(1).text, fault.word(2)
    if mark == "." and ":" in (fault.word(3).text, fault.word(4).text):
        return "put the layout of a phase into a block `deploy { ... }`"
    if mark == "." or (mark == "(" and fault.found.end == fault.word(1).start):
        return "name the node: `node NAME = ...`"
    if mark == ":" and value.text in ("policy", "value", "reward"):
        return f"write `model {name} : {value.text} = ...`"
    if mark == ":" and value.text in ("int", "float", "bool", "str"):
        return f"write `param {name} : {value.text} = ...`"
    if mark == "=" and (value.kind in _VALUES or value.text in ("true", "false", "True", "False")):
        return f"write `param {name} : {type_of(value)} = {value.text}`"
    return f"write `node {name} = ...`" if mark == "=" else None


def _block(fault: Fault) -> Said | None:
    if fault.kind not in BLOCKS or "LBRACE" not in fault.accepts:
        return None
    if fault.found.text == ":":
        return Said("a block stands in `{ }`", fix="write `{` in place of `:`, and `}` at its end", begins_block=True)
    if fault.broken_off or fault.found.first:
        last = (fault.at if not fault.broken_off else fault.end) - 1
        return Said(
            f"`{{` is missing after {quote(fault.source.words[last].text)}",
            fix=FORMS[fault.kind],
            at=last,
            begins_block=True,
        )
    return None


def _heading(fault: Fault) -> Said | None:
    """The part before `=` of a declaration: name, `:`, type."""
    kind, found = fault.kind, fault.found
    if kind in ("param", "model", "input") and ("COLON" in fault.accepts or found.text == ":="):
        if found.text in ("=", ":="):
            value = fault.word(1)
            type_ = {"param": type_of(value), "model": "policy", "input": "text[prompt]"}[kind]
            name = fault.word(-1).text
            return Said(
                f"{article(kind)} needs a {'kind' if kind == 'model' else 'type'}",
                fix=f"write `{kind} {name} : {type_} = ...`",
            )
        if found.kind == "name" and (kind != "input" or found.text in ("text", "f32", "i64", "bool", "prompt")):
            return Said(f"`:` is missing before {quote(found.text)}", fix=FORMS[kind])
    if found.text == "-" and _adjacent(fault):
        name = f"{fault.word(-1).text}_{fault.word(1).text}"
        return Said("a name holds letters, digits and `_`", fix=f"write `{name}`", at=fault.at - 1, to=fault.at + 1)
    if (
        found.kind == "number"
        and "NAME" in fault.accepts
        and "INT" not in fault.accepts
        and fault.at == fault.first + 1
    ):
        return Said("a name begins with a letter or `_`")
    if found.text in ("true", "false", "none", "and", "or", "not") and "NAME" in fault.accepts:
        return Said(f"`{found.text}` is a word of the language, and no name")
    return None


def _adjacent(fault: Fault) -> bool:
    last, after = fault.word(-1), fault.word(1)
    return last.kind == after.kind == "name" and last.end == fault.found.start and fault.found.end == after.start


def _equals(fault: Fault) -> Said | None:
    found = fault.found
    # The parser may have taken the first half of `==` for the `=` that it was waiting for.
    if found.text in ("==", ":=", "<-") and "COMPARE" not in fault.accepts:
        return Said("a value is given with `=`", fix=f"write `=` in place of `{found.text}`")
    if "EQUAL" in fault.accepts:
        if fault.opened is None and found.text and fault.kind and not fault.complete and "COMMA" not in fault.accepts:
            return Said(f"`=` is missing before {quote(found.text)}", fix=FORMS.get(fault.kind))
        if found.kind in _VALUES or found.text in FOREIGN:
            return Said(f"`=` is missing between `{fault.word(-1).text}` and {quote(found.text)}")
    if found.text == "=" and "COMPARE" in fault.accepts and fault.has_before("when"):
        return Said("`=` gives a value", fix="compare with `==`")
    return None


def _constant(fault: Fault) -> Said | None:
    found = fault.found
    if fault.kind == "param" and "IN" in fault.accepts and found.text in ("+", "-", "*", "/", "//", "%"):
        return Said("the default of a parameter is a constant", fix="work it out, or compute it where it is used")
    if "TRUE" not in fault.accepts or "STRING" not in fault.accepts:
        return None
    if found.text in FOREIGN:
        return Said(f"`{found.text}` is written `{FOREIGN[found.text]}`", fix=f"write `{FOREIGN[found.text]}`")
    if found.text in ("[", "{") and "LSQB" not in fault.accepts and fault.kind not in BLOCKS:
        return Said("there are no lists or dictionaries", fix='write a list as a string with commas: `"a, b"`')
    if fault.kind == "param" and (found.kind == "name" or found.text == "(") and not found.first:
        return Said(
            "the default of a parameter is a constant",
            fix=FORMS["param"],
            expected="a number, a string, `true`, `false` or `none`",
        )
    return None


# Calls


def _call(fault: Fault) -> Said | None:
    found, last = fault.found, fault.word(-1)
    if fault.kind == "node" and "DOT" in fault.accepts and last.kind == "name":
        if found.text == "(":
            return Said("a function is called with `compute`", fix=f"write `compute {last.text}(...)`", at=fault.at - 1)
        if found.kind == "name" and not found.first:
            return Said(f"`.` is missing between `{last.text}` and {quote(found.text)}")
    if fault.kind == "node" and {"COMPUTE", "NAME"} <= fault.accepts and not fault.broken_off:
        return Said(f"a node is a call, not {quote(found.text)}", fix=FORMS["node"])
    if fault.kind == "model" and "FROZEN" in fault.accepts and found.kind in _VALUES:
        return Said("the weights of a model have a source", fix=f"write `hf({found.text})`")
    return None


def _settings(fault: Fault) -> Said | None:
    """`;`: missing before settings, or one too many."""
    if fault.kind == "layout" and fault.bracket:
        return _layout_setting(fault.found)
    if fault.bracket != "(" or fault.kind not in ("node", "metric", "model", "input"):
        return None
    return _after_semicolon(fault) if fault.has_before(";") else _before_semicolon(fault)


def _after_semicolon(fault: Fault) -> Said | None:
    found, last = fault.found, fault.word(-1)
    if found.text == ";":
        return Said("settings are separated by commas", fix="write `,` in place of the second `;`")
    if found.kind in _VALUES and last.text in (";", ","):
        return Said("a setting has a name", fix=f"write `NAME = {found.text}`")
    return None


def _before_semicolon(fault: Fault) -> Said | None:
    found, last = fault.found, fault.word(-1)
    if fault.kind in ("model", "input"):
        if found.text != "=" or last.kind != "name":
            return None
        message = "`;` is missing before what a source takes by name"
        return Said(message, fix=f"write `; {last.text} = ...`", at=fault.at - 1)
    value = found.kind in _VALUES or found.text in ("-", "(", "not", "true", "false", "none", *FOREIGN)
    if not value or "NAME" not in fault.accepts or last.text not in ("=", ",", "("):
        return None
    if found.text == "-" and last.text != "=":
        message = "what stands before `;` is a field, and nothing can be computed of one here"
        return Said(message, fix="let a function make the field that you want", at=fault.at)
    name, at = (fault.word(-2).text, fault.at - 2) if last.text == "=" else ("NAME", fault.at)
    message = "`;` is missing before settings: before it stand fields"
    return Said(message, fix=f"write `; {name} = {found.text}`", at=at)


def _layout_setting(found: Lexeme) -> Said | None:
    if found.text == ";":
        return Said("a layout has settings only", fix="remove the `;`")
    return Said("a setting has a name", fix=f"write `dp = {found.text}`") if found.kind == "number" else None


def _bracket(fault: Fault) -> Said | None:
    found, open_, close = fault.found, fault.bracket, _OPEN.get(fault.bracket, "")
    if found.text in (")", "]") and not open_:
        return Said(f"this `{found.text}` closes nothing", fix="remove it")
    if found.text in _CLOSING and open_ and found.text != close:
        return Said(f"`{open_}` is closed by `{found.text}`", fix=f"write `{close}`", labels=_opener(fault))
    if not open_ or fault.closes():
        return None
    if fault.broken_off:
        return Said(
            "this bracket is not closed", fix=f"close it with `{close}`", expected=f"`{close}`", at=fault.opened
        )
    fix = f"close it with `{close}` before {quote(found.text)}"
    return Said(f"the bracket `{open_}` is not closed", fix=fix, expected=f"`{close}`", labels=_opener(fault))


def _opener(fault: Fault) -> tuple[Label, ...]:
    if fault.opened is None:
        return ()
    word = fault.source.words[fault.opened]
    return (Label(span=fault.source.span(word.start, word.end), message="it opens here"),)


def _comma(fault: Fault) -> Said | None:
    found, last = fault.found, fault.word(-1)
    if (
        "COMMA" in fault.accepts
        and found.kind in ("name", *_VALUES)
        and last.text != ","
        and not found.first | (not fault.bracket)
    ):
        return Said(f"a comma is missing between {quote(last.text)} and {quote(found.text)}")
    if last.text == "," and (found.text in _CLOSING or found.text == ","):
        return Said("nothing follows this comma", fix="remove it", at=fault.at - 1)
    if last.text == "," and fault.broken_off:
        return Said("nothing follows this comma", fix="remove it", at=fault.end - 1)
    if found.text == "," and last.text in _OPEN:
        return Said("nothing stands before this comma", fix="remove it")
    return None


# What follows a call


def _parts(fault: Fault) -> Said | None:
    """`with`, `->`, `when`, `after`: misspelt, missing or out of order."""
    if fault.kind not in ("node", "metric", "model", "input", "output") or fault.opened is not None:
        return None
    if not fault.complete:
        return None
    found, arrow = fault.found, fault.kind == "node" and ARROW in fault.accepts
    if found.text in ("with", "->", "when", "after"):
        return _order(fault)
    if arrow and found.text in ("=>", "-", ">", "<-", ":", "="):
        return Said("a node needs `->` before its outputs", fix=f"write `->` in place of `{found.text}`")
    said = _part_name(fault) if found.kind == "name" else None
    if said is None and arrow and found.kind == "name":
        return Said("a node needs `->` before its outputs", fix=f"write `-> {found.text[:_LONGEST]}`")
    return said


def _part_name(fault: Fault) -> Said | None:
    """A name where `with`, `when` or `after` should stand."""
    text = fault.found.text
    words = ("with", "when", "after") if fault.kind == "node" else ("with", "when")
    if hint := did_you_mean(text, words):
        return Said(f"{quote(text)} does not fit in {article(fault.kind)}", fix=hint)
    if "WITH" in fault.accepts and fault.word(1).text in ("=", "=="):
        return Said("`with` is missing before the options", fix=f"write `with {text} = ...`")
    if text == "if":
        return Said("a condition begins with `when`", fix="write `when` in place of `if`")
    return None


def _order(fault: Fault) -> Said:
    word = fault.found.text
    if fault.has_before(word):
        return Said(f"a second `{word}` in {article(fault.kind)}", fix="one takes all, separated by commas")
    if fault.kind == "node":
        return Said(f"`{word}` comes too late", fix=FORMS["node"] + ", in this order")
    return Said(f"{article(fault.kind)} has no `{word}`", fix=FORMS.get(fault.kind))


def _cluster(fault: Fault) -> Said | None:
    if fault.kind == "cluster" and "X" in fault.accepts:
        return Said("`x` is missing after the number of devices", fix=FORMS["cluster"])
    return None


def _ranks(fault: Fault) -> Said | None:
    """`on` and the ranks behind it."""
    if fault.kind != "layout" or fault.opened is not None:
        return None
    found, last = fault.found, fault.word(-1)
    # Without the first word, which may be a node called `on`.
    near = [fault.source.words[i].text for i in range(max(fault.first + 1, fault.at - 4), fault.at)]
    if "on" in near:
        what = "`on` takes the first and the last rank"
        at = fault.at - 1 if fault.broken_off or found.first else None
        return Said(what, fix="write such as `on 4..7`, or `on 4` for one rank", expected="a number", at=at)
    if found.kind == "number" and last.text == "on":
        return Said("a node stands before `on`", fix=f"write `NODE on {found.text}`", at=fault.at - 1)
    if found.kind == "number" and (last.text == ")" or last.kind == "name"):
        return Said("`on` is missing before the ranks", fix=f"write `on` before {quote(found.text)}")
    if found.text == "on" and "LPAR" in fault.accepts:
        return Said("an engine takes brackets", fix=f"write `{last.text}()`", at=fault.at - 1)
    return None


_RULES: tuple[Callable[[Fault], Said | None], ...] = (
    _string,
    _comment,
    _character,
    _foreign,
    _ranks,
    _block,
    _operator,
    _unknown_statement,
    _number,
    _heading,
    _call,
    _settings,
    _constant,
    _parts,
    _equals,
    _bracket,
    _comma,
    _cluster,
)
