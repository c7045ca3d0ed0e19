"""Canonical text: nothing is lost or moved, the meaning stays, and formatting twice is formatting once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.compiler.format import format_text
from rldsl.compiler.lexemes import scan
from rldsl.compiler.syntax_errors import parse_tree
from rldsl.diagnostics import DiagnosticError, Diagnostics
from tests.compiler.programs import EXAMPLES, PPO, PROGRAM
from tests.compiler.test_syntax_errors import BLOCKS

REFERENCE = EXAMPLES.parent / "grammar" / "reference.md"
SHIPPED = sorted(EXAMPLES.rglob("*.rl"))
DOCUMENTED = re.findall(r"```rl\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
PROGRAMS = [PROGRAM, PPO, BLOCKS, *(p.read_text() for p in SHIPPED), *DOCUMENTED]

ODD = """\
# top


use   "a.py"   # functions
algorithm   d{ # head

  # first
  param x:int=1_000 in[1,4)# why
  param longer : str="a b"  in {"a b","c" }
  # between

  # after the blank line
  param rate:float = -1e-05 prompts param z : int = -3 in ( , -5]



  model a : policy=frozen   hf( "x" ;a=1 ) with r=3
  model bbb : value = copy a
  node plain = compute f( )
  node a:ROLE,COMPUTE=compute f(a=b,c ?;k)with lr=3->x,y when not(x)and-z<3 after plain
  node bb : R = compute f()
  loop turns max(x+1)carry tokens,mask{ node a = actor.extend( # call
     tokens # the tokens
     , # own
# lone
     mask;n=- x,m = not (x),k=2-  -3 ) -> tokens, mask   # outputs


    metric q = mean(a,b) when x>3 and not (y=="a")
    # last

  } # end of the loop
  validate t every 10 {


  }
  # tail

}
# between
deploy{cluster 4 x cpu
a . b:c(dp=3)
longer.name : c( )   # engine
}
# end"""

EVEN = """\
# top

use "a.py"  # functions
algorithm d {  # head
  # first
  param x      : int = 1_000 in [1, 4)  # why
  param longer : str = "a b" in {"a b", "c"}
  # between

  # after the blank line
  param rate : float = -1e-05 prompts
  param z    : int   = -3 in (, -5]

  model a   : policy = frozen hf("x"; a = 1) with r = 3
  model bbb : value  = copy a
  node plain = compute f()
  node a  : ROLE, COMPUTE = compute f(a = b, c?; k) with lr = 3 -> x, y when not (x) and -z < 3 after plain
  node bb : R             = compute f()
  loop turns max (x + 1) carry tokens, mask {
    node a = actor.extend(  # call
        tokens  # the tokens
        ,  # own
        # lone
        mask; n = -x, m = not (x), k = 2 - -3) -> tokens, mask  # outputs

    metric q = mean(a, b) when x > 3 and not (y == "a")
    # last
  }  # end of the loop
  validate t every 10 {
  }
  # tail
}
# between
deploy {
  cluster 4 x cpu
  a.b         : c(dp = 3)
  longer.name : c()  # engine
}
# end
"""


def formatted(text: str) -> str:
    return format_text(text, "test.rl")


def shape(text: str) -> object:
    """What a text says, without places."""
    found = Diagnostics()
    tree, _ = parse_tree(text, "test.rl", found)
    found.raise_if_errors()
    return tree


def test_canonical_form() -> None:
    assert formatted(ODD) == EVEN


@pytest.mark.parametrize("path", SHIPPED, ids=[str(p.relative_to(EXAMPLES)) for p in SHIPPED])
def test_examples_are_canonical(path: Path) -> None:
    assert formatted(path.read_text()) == path.read_text()


@pytest.mark.parametrize("text", [*PROGRAMS, ODD], ids=range(len(PROGRAMS) + 1))
def test_twice_is_once_and_means_the_same(text: str) -> None:
    once = formatted(text)
    assert formatted(once) == once
    assert shape(once) == shape(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n\n", ""),
        ("# a\r\n\r\n\r\n# b  \r\n", "# a\n\n# b\n"),
        ("algorithm a {}", "algorithm a {\n}\n"),
        ("algorithm a { # b\n}", "algorithm a {  # b\n}\n"),
        ("algorithm # b\na {\n}", "algorithm  # b\n    a {\n}\n"),
        ("algorithm a { param s : str = \"# no = comment\" }", 'algorithm a {\n  param s : str = "# no = comment"\n}\n'),
        ("algorithm a {\n\n# b\n\n}", "algorithm a {\n  # b\n}\n"),
        ("algorithm a { param x # b\n: int = 3\nparam yy : int = 3 }",
         "algorithm a {\n  param x  # b\n      : int = 3\n  param yy : int = 3\n}\n"),
    ],
)  # fmt: skip
def test_small(text: str, expected: str) -> None:
    assert formatted(text) == expected
    assert formatted(expected) == expected


def test_nodes_with_roles_line_up_apart() -> None:
    assert formatted("algorithm a {node a = compute f() node bb : R = compute f() node ccc = compute f()}") == (
        "algorithm a {\n  node a   = compute f()\n  node bb : R = compute f()\n  node ccc = compute f()\n}\n"
    )


def test_what_cannot_be_read_is_refused_with_every_error() -> None:
    with pytest.raises(DiagnosticError) as raised:
        formatted("algorithm a {\n  nod x\n  param y\n}\n")
    assert [d.code for d in raised.value.diagnostics] == ["RL0102", "RL0102"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_comments_and_blanks_anywhere(data: st.DataObject) -> None:
    """Between any two words: blanks, line breaks, comments at the end of a line and on lines of their own."""
    text = data.draw(st.sampled_from(PROGRAMS))
    words = list(scan(text))
    gaps = st.sampled_from([" ", "  ", "\t", "\n", "\n\n\n", "\r\n", " # c\n", "\n# c\n", "#\n \n  # d #\n", '#"\n\n'])
    spaced = "".join(w.text + ("\n" if w.kind == "comment" else data.draw(gaps)) for w in words)
    once = formatted(spaced)
    assert formatted(once) == once
    assert shape(once) == shape(text)
    assert [w.text for w in scan(once)] == [w.text for w in scan(spaced)]
    assert [w.first for w in scan(once) if w.kind == "comment"] == [
        w.first for w in scan(spaced) if w.kind == "comment"
    ]
    assert "\n\n\n" not in once and not re.search(r"[ \t\r]\n", once)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_line_breaks_within_statements_go(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(PROGRAMS))
    words = list(scan(text))
    breaks = st.sampled_from([" ", " ", "\n", "\n\n  "])
    spread, last = "", 0
    for word in words:
        gap = text[last : word.start]
        spread += (gap if word.first or word.kind == "comment" else gap and data.draw(breaks)) + word.text
        last = word.end
    assert formatted(spread) == formatted(text)
