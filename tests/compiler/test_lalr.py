"""The fast reader makes lark's trees, and reads nothing that lark does not."""

from __future__ import annotations

import random
import time

import pytest
from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from rldsl.compiler.lalr import Reader
from rldsl.compiler.syntax_errors import parser
from tests.compiler.programs import EXAMPLES

TEXTS = {str(p.relative_to(EXAMPLES)): p.read_text() for p in sorted(EXAMPLES.rglob("*.rl"))}
WHERE = ("start_pos", "line", "column", "end_pos", "end_line", "end_column")


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(parser())


def shape(part: Tree[Token] | Token) -> object:
    """All that a tree or token says of itself."""
    if isinstance(part, Token):
        return part.type, str(part), part.value, *(getattr(part, w) for w in WHERE)
    where = () if part.meta.empty else tuple(getattr(part.meta, w) for w in WHERE)
    return part.data, where, [shape(c) for c in part.children]


def by_lark(text: str) -> object:
    try:
        return shape(parser().parse(text))
    except UnexpectedInput:
        return None


def by_us(reader: Reader, text: str) -> object:
    tree = reader.tree(text)
    return None if tree is None else shape(tree)


@pytest.mark.parametrize("name", TEXTS)
def test_examples(reader: Reader, name: str) -> None:
    read = by_us(reader, TEXTS[name])
    assert read is not None
    assert read == by_lark(TEXTS[name])


@pytest.mark.parametrize("text", ["", "   \n # nothing\n", 'use "a.py" # last', "deploy {}", "algorithm a {\n}\n\n"])
def test_small_texts(reader: Reader, text: str) -> None:
    assert by_us(reader, text) == by_lark(text) is not None


@pytest.mark.parametrize("seed", range(4))
def test_damaged_texts(reader: Reader, seed: int) -> None:
    """With a word left out, doubled or in another place some stay right; both readers must agree on which."""
    draw, read = random.Random(seed), 0
    for text in TEXTS.values():
        words = text.split(" ")
        for _ in range(8):
            bent = list(words)
            at = draw.randrange(len(bent))
            bent[at : at + 1] = draw.choice([[], [bent[at]] * 2, [draw.choice(words)], [bent[at] + ",", "("]])
            ours = by_us(reader, " ".join(bent))
            assert ours == by_lark(" ".join(bent))
            read += ours is not None
    assert read > 10


def test_much_blank_before_a_mistake(reader: Reader) -> None:
    """Blanks can be read in one way only."""
    began = time.process_time()
    assert reader.tree(" \n" * 50_000 + "%") is None
    assert time.process_time() - began < 1
