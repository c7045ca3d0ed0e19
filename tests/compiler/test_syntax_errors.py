"""Each syntax error is named, stands under its caret, costs no other statement, and costs no time."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Tree

from rldsl.compiler.syntax_errors import MOST_ERRORS, parse_tree
from rldsl.compiler.syntax_words import FORMS
from rldsl.diagnostics import Diagnostic, Diagnostics
from tests.compiler.programs import EXAMPLES, PROGRAM

BLOCKS = """\
algorithm blocks {
  param turns : int = 3 in [1, 4)
  param mode  : str = "a" in {"a", "b"}
  loop dialogue max turns carry tokens, response_mask {
    node more = actor.extend(tokens, response_mask; turns) -> tokens, response_mask
    metric length = mean(tokens, response_mask) when turns > 1 and not (mode == "a")
  }
  validate test every 10 {
    input prompts : text[prompt] = jsonl("rows.jsonl"; shuffle = false) with batch = 8 prompts
    output seen = prompts, tokens with every = 10
  }
}

deploy {
  cluster 4 x cpu
  actor.train : fsdp(dp = 4)
}
"""

# (a line of PROGRAM's body, what it says, what the caret stands under)
WRONG = [
    ("node a = compute f(x) score", "a node needs `->` before its outputs", "score"),
    ("node a = compute f(x) - score", "a node needs `->` before its outputs", "-"),
    ("node a = compute f(x) => score", "a node needs `->` before its outputs", "=>"),
    ("node a = compute f(x) → score", "`→` is no character of the language", "→"),
    ("node a compute f(x) -> y", "`=` is missing before `compute`", "compute"),
    ("node a = f(x) -> y", "a function is called with `compute`", "f"),
    ("node a = actor train f(x)", "`.` is missing between `actor` and `train`", "train"),
    ("node a = 3", "a node is a call, not `3`", "3"),
    ("node a = compute f(x y) -> z", "a comma is missing between `x` and `y`", "y"),
    ("node a = compute f(x, ) -> z", "nothing follows this comma", ","),
    ("node a = compute f(, x) -> z", "nothing stands before this comma", ","),
    ("node a = compute f(x,, y) -> z", "nothing follows this comma", ","),
    ("node a = compute f(x, n = 4) -> z", "`;` is missing before settings", "n"),
    ("node a = compute f(x, 4) -> z", "`;` is missing before settings", "4"),
    ("node a = compute f(x; n = 4; m = 3) -> z", "settings are separated by commas", ";"),
    ("node a = compute f(x; 4) -> z", "a setting has a name", "4"),
    ("node a = compute f(x; n 4) -> z", "`=` is missing between `n` and `4`", "4"),
    ("node a = compute f(x; n = [1, 2]) -> z", "there are no lists", "["),
    ("node a = compute f(x -> z", "the bracket `(` is not closed", "->"),
    ("node a = compute f(x", "this bracket is not closed", "("),
    ("node a = compute f(x] -> z", "`(` is closed by `]`", "]"),
    ("node a = compute f(x)) -> z", "this `)` closes nothing", ")"),
    ("node a = compute f(x) lr = 3", "`with` is missing before the options", "lr"),
    ("node a = compute f(x) wiht lr = 3", "did you mean `with`?", "wiht"),
    ("node a = compute f(x) if y", "a condition begins with `when`", "if"),
    ("node a = compute f(x) when y -> z", "`->` comes too late", "->"),
    ("node a = compute f(x) -> y -> z", "a second `->`", "->"),
    ("node a = compute f(x) -> y when z = 3", "`=` gives a value", "="),
    ("node a = compute f(x) -> y when 0 < z < 1", "comparisons do not chain", "<"),
    ("node a = compute f(x) -> y when z && w", "write `and`", "&&"),
    ("node a = compute f(x) -> y when !z", "write `not`", "!"),
    ("node a-b = compute f(x) -> y", "write `a_b`", "a-b"),
    ("node 2nd = compute f(x) -> y", "a name begins with a letter", "2"),
    ("node a = compute f(x) -> y;", "a statement ends without `;`", ";"),
    ("param x : int 3", "`=` is missing before `3`", "3"),
    ("param x : int == 3", "a value is given with `=`", "=="),
    ("param x = 0.5", "write `param x : float = ...`", "="),
    ("param x := 3", "write `param x : int = ...`", ":="),
    ("param x int = 3", "`:` is missing before `int`", "int"),
    ("param x : int =", "a parameter breaks off after `=`", "="),
    ("param x : bool = True", "write `true`", "True"),
    ("param x : str = None", "write `none`", "None"),
    ("param x : str = 'a'", 'write `"a"`', "'a'"),
    ("param x : str = “a”", "plain double quotes", "“"),
    ('param x : str = "a', "this string is not closed", '"a'),
    ('param x : str = """a"""', "there are no triple quotes", '"a"'),
    ("param x : int = 2 * 3", "the default of a parameter is a constant", "*"),
    ("param x : int = group", "the default of a parameter is a constant", "group"),
    ("param x : int = 3 sample", "did you mean `samples`?", "sample"),
    ("param x : int = 3_", "`3_` is neither a number nor a name", "3_"),
    ("param x : float = .5", "write `0.5`", ".5"),
    ("param x : float = 5.", "write `5.0`", "5."),
    ("param x : int = 3 in (0; 1)", "does not fit in a parameter", ";"),
    ("param x : int = 3 // why", "a comment begins with `#`", "//"),
    ("// why", "a comment begins with `#`", "//"),
    ("model x = copy actor", "write `model x : policy = ...`", "="),
    ('model x : policy = "path"', 'write `hf("path")`', '"path"'),
    ("model x : policy = hf(path, lora = 3)", "write `; lora = ...`", "lora"),
    ("model x : policy = frozen", "a model breaks off after `frozen`", "frozen"),
    ("input x = jsonl(path)", "write `input x : text[prompt] = ...`", "="),
    ("input x : text[prompt] = jsonl(path) batch = 8", "`with` is missing before the options", "batch"),
    ("metric x mean(y)", "`=` is missing before `mean`", "mean"),
    ("output x = y every = 3", "`with` is missing before the options", "every"),
    ("nod a = compute f(x) -> y", "did you mean `node`?", "nod"),
    ("parameter x : int = 3", "did you mean `param`?", "parameter"),
    ("nodes = 3", "write `param nodes : int = 3`", "nodes"),
    ("reward = compute f(x)", "write `node reward = ...`", "reward"),
    ("lr : float = 3", "write `param lr : float = ...`", "lr"),
    ("critic : value = copy actor", "write `model critic : value = ...`", "critic"),
    ("actor.train f(x)", "name the node", "actor"),
    ("actor.train : fsdp(dp = 8)", "`deploy { ... }`", "actor"),
    ("cluster 8 x h100", "a cluster stands inside the `deploy` block", "cluster"),
    ('use "mine.py"', "stands before the `algorithm` block", "use"),
    ("def f(x):", "write functions in a Python file", "def"),
    ("for i in turns {\n  }", "a loop is `loop NAME max N", "for"),
    ("if x {\n  }", "a node runs on a condition", "if"),
    ("loop x carry y {\n  }", "expected `max`", "carry"),
    ("loop x max 3 carry y:", "a block stands in `{ }`", ":"),
    ("validate every 3 {\n  }", "does not fit in a `validate` block", "3"),
]


def read(text: str) -> tuple[Tree, frozenset[str], list[Diagnostic]]:
    found = Diagnostics()
    tree, names = parse_tree(text, "test.rl", found)
    return tree, names, found.sorted()


def said(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.message}\n{diagnostic.fix}\nexpected {diagnostic.expected}"


def under(text: str, diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    assert span is not None and span.line == span.end_line
    return text.split("\n")[span.line - 1][span.column - 1 : span.end_column - 1]


def statements(tree: Tree) -> list[str]:
    return [str(t.data) for block in tree.children for t in block.children if isinstance(t, Tree)]


@pytest.mark.parametrize(("line", "message", "caret"), WRONG, ids=[w[0].split("\n")[0] for w in WRONG])
def test_one_mistake_one_message_and_nothing_else_is_lost(line: str, message: str, caret: str) -> None:
    text = PROGRAM.replace("  model actor", f"  {line}\n  model actor")
    tree, _, found = read(text)
    assert [d.code for d in found] == ["RL0102"], [said(d) for d in found]
    assert message in said(found[0]), said(found[0])
    assert under(text, found[0]) == caret
    kept = statements(tree)
    lost = [s for s in statements(read(PROGRAM)[0]) if kept.count(s) < statements(read(PROGRAM)[0]).count(s)]
    assert not lost or line.startswith(("loop x max",))


def test_all_of_them_at_once() -> None:
    lines = [w for w in WRONG if "{" not in w[0] and ":" not in w[2][-1:] and not w[0].startswith("use")][:MOST_ERRORS]
    text = PROGRAM.replace("  model actor", "".join(f"  {w[0]}\n" for w in lines) + "  model actor")
    tree, _, found = read(text)
    assert len(found) == len(lines)
    for wrong, diagnostic in zip(lines, found, strict=True):
        assert wrong[1] in said(diagnostic)
    assert statements(tree)[-6:] == ["node"] * 6


def test_at_most_twenty() -> None:
    assert len(read("algorithm a {\n" + "nod x\n" * 100 + "}\n")[2]) == MOST_ERRORS


# (text, what each diagnostic says, the statements that remain)
STRUCTURE = [
    ("hello world\n", ["`hello` begins no statement"], []),
    ("algoritm a {\n  param x : int = 3\n}\n", ["did you mean `algorithm`?"], ["param"]),
    ("algorithm a:\n  param x : int = 3\n", ["a block stands in `{ }`"], ["param"]),
    ("algorithm a\n  param x : int = 3\n}\n", ["`{` is missing after `a`"], ["param"]),
    ("param x : int = 3\nparam y : int = 3\n", ["stands outside of the `algorithm` block"], ["param", "param"]),
    ("algorithm a {\n  param x : int = 3\n}\n}\n", ["this `}` closes nothing"], ["param"]),
    ("algorithm a {\n}\n  param x : int = 3\n}\n", ["remove the `}` that ends the block of line 1"], ["param"]),
    ("algorithm a {\n  param x : int = 3\n", ["the `algorithm` block is not closed"], ["param"]),
    ("algorithm a {\n  param x : int", ["a parameter breaks off after `int`"], []),
    ("algorithm a {\ndeploy {\n}\n", ["not closed before this `deploy`"], []),
    (
        "algorithm a {\n  loop l max 3 carry t {\n    node x = compute f(t) -> t\n  param y : int = 3\n}\n",
        ["the `loop` block is not closed before this `param`"],
        ["loop", "param"],
    ),
    (
        "algorithm a {\n  loop l max 3 carry t {\n    node x = compute f(t) -> t\n  node y = compute f(t) -> z\n}\n",
        ["the `loop` block is not closed"],
        ["loop"],
    ),
    (
        "algorithm a {\n  loop l max 3 carry t {\n    param y : int = 3\n    node x = compute f(t) -> t\n  }\n}\n",
        ["`param` cannot stand inside a `loop` block"],
        ["loop"],
    ),
    (
        "algorithm a {\n  loop l carry t {\n    node x = compute f(t) -> t\n  }\n  param y : int = 3\n}\n",
        ["`carry` does not fit in a loop"],
        ["validate", "param"],
    ),
    (
        "algorithm a {\n  loop l max 3 carry t:\n    node x = compute f(t) -> t\n  node y = compute f(t) -> z\n}\n",
        ["write `{` in place of `:`"],
        ["loop", "node"],
    ),
    (
        "algorithm a {\n  loop l max 3 carry t {\n    loop m max 3 carry t {\n      node x = compute f(t) -> t\n    }\n"
        "  }\n  param y : int = 3\n}\n",
        ["blocks do not nest"],
        ["loop", "param"],
    ),
    (
        "algorithm a {\n  deploy {\n    cluster 2 x cpu\n  }\n  param y : int = 3\n}\n",
        ["the `algorithm` block is not closed before this `deploy`"],
        ["param", "cluster"],
    ),
    (
        "deploy {\n  cluster 8 h100\n  actor.train : fsdp(; dp = 3)\n  actor.train : fsdp(3)\n  node x = compute f()\n}\n",
        ["`x` is missing", "a layout has settings only", "a setting has a name", "inside the `algorithm` block"],
        [],
    ),
    (
        "use mine.py\nimport rldsl as rl\nfrom x import y\nalgorithm a {\n}\n",
        ['`use "mine.py"`', "takes a file of the language", "Python file"],
        [],
    ),
]


@pytest.mark.parametrize(("text", "messages", "kept"), STRUCTURE, ids=[s[1][0] for s in STRUCTURE])
def test_blocks(text: str, messages: list[str], kept: list[str]) -> None:
    tree, _, found = read(text)
    assert len(found) == len(messages), [said(d) for d in found]
    for message, diagnostic in zip(messages, found, strict=True):
        assert message in said(diagnostic)
    assert statements(tree) == kept
    assert [t.data for t in tree.children].count("algorithm") <= 1


def test_names_of_what_is_left_out() -> None:
    assert read(PROGRAM)[1] == frozenset()
    text = PROGRAM.replace("-> score", 'score with note = "group"')
    assert read(text)[1] == {"reward", "exact_match", "completions", "answers", "score", "note"}


def test_positions_stay() -> None:
    text = PROGRAM.replace("param group   : int   = 4", "param group : int = 4 4 4").replace("\n", "\r\n")
    for node, again in zip(read(PROGRAM)[0].find_data("node"), read(text)[0].find_data("node"), strict=True):
        assert (node.meta.line, node.meta.column) == (again.meta.line, again.meta.column)


def test_keywords_are_whole_words() -> None:
    (found,) = read("algorithm a {\n  nodex = compute f(y) -> z\n}\n")[2]
    assert "node nodex = " in said(found)


LONG = {
    "brackets": "algorithm a {\n  node x = compute f() when " + "(" * 10_000,
    "closed brackets": f"algorithm a {{\n  node x = compute f() when {'(' * 10_000}1{')' * 10_000}\n}}\n",
    "lines of brackets": "algorithm a {\n" + "node x = compute f(\n" * 5000,
    "negations": "algorithm a {\n  node x = compute f() when " + "not " * 10_000 + "1\n}\n",
    "closing braces": "}\n" * 50_000,
    "braces": "{" * 100_000,
    "quotes": '"' * 99_999,
    "escapes": '"' + '\\"' * 50_000,
    "digits": "algorithm a {\n  param x : int = " + "1_" * 50_000,
    "words": "a " * 50_000,
    "lines": "algorithm a {\n" + "a\n" * 50_000,
    "blocks": "algorithm a {\n" * 5000,
    "loops": "algorithm a {\n" + "loop x max 3 carry y {\n" * 5000,
    "algorithms": "algorithm a {}\nparam x : int = 3\n" * 5000,
    "zeros": "\0" * 100_000,
    "garbage": "".join(random.Random(0).choices("abc(){}[];:=,->\n\" #'x1.", k=100_000)),
    "unicode": "".join(map(chr, random.Random(0).choices(range(1, 0x3000), k=100_000))),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_nothing_makes_it_slow(text: str) -> None:
    read("")
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 2


WORDS = re.compile(r"\w+|\s+|[^\w\s]")
SOURCES = [WORDS.findall(text) for text in (PROGRAM, BLOCKS, (EXAMPLES / "ppo.rl").read_text())]
SIGNS = ["{", "}", "(", ")", "[", "]", ",", ";", ":", "=", "->", "==", "=>", "'", '"', "#", "//", "-", ".", "?", "\n"]
MARKS = [*FORMS, *SIGNS, "\\", "with", "when", "after", "not", "x", "1", "True", "def"]
TERMINAL = re.compile(r"__ANON|Token\(|\b([LR](BRACE|PAR|SQB)|EQUAL|COMMA|COLON|SEMICOLON|INT|DOT)\b")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_reported(data: st.DataObject) -> None:
    words = list(data.draw(st.sampled_from(SOURCES)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at : at + data.draw(st.integers(0, 4))] = data.draw(st.lists(st.sampled_from(MARKS), max_size=2))
        words = words or [""]
    text = "".join(words)
    _, _, found = read(text)
    lines = text.split("\n")
    for diagnostic in found:
        span = diagnostic.span
        assert span is not None and 1 <= span.line <= len(lines) and 1 <= span.column <= len(lines[span.line - 1]) + 1
        assert (span.line, span.column) < (span.end_line, span.end_column)
        assert not TERMINAL.search(said(diagnostic))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    assert read(text)[0].data == "start"
