"""Offsets, the compiler's spans and an editor's positions are the same places."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldsl.diagnostics import Span
from rldsl.lsp.text import Text

TEXTS = st.text(alphabet="ab \n\r\u2028\x0b\x85é😀")


@given(text=TEXTS, encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]), data=st.data())
def test_positions_go_there_and_back(text: str, encoding: str, data: st.DataObject):
    whole = Text(Path("a.rl"), text)
    offset = data.draw(st.integers(0, len(text)))
    back = whole.at(*whole.position(offset, encoding), encoding)
    between = text[offset - 1 : offset + 1] == "\r\n"  # an editor has no position between these two
    assert back == (offset - 1 if between else offset)


@given(text=TEXTS, row=st.integers(0, 9), character=st.integers(0, 9))
def test_a_place_beyond_the_text_is_its_nearest(text: str, row: int, character: int):
    assert 0 <= Text(Path("a.rl"), text).at(row, character) <= len(text)


def test_an_astral_character_counts_as_the_editor_counts_it():
    text = Text(Path("a.rl"), "é😀x")
    assert [text.position(2, e) for e in ("utf-8", "utf-16", "utf-32")] == [(0, 6), (0, 3), (0, 2)]


@pytest.mark.parametrize(
    ("span", "stretch"),
    [
        (Span("a.rl", 2, 3, 2, 5), (6, 8)),
        (Span.whole_line("a.rl", 2), (4, 9)),
        (Span.whole_line("a.rl", 9), (4, 9)),
        (Span("a.rl", 2, 99, 2, 100), (9, 9)),
    ],
)
def test_spans(span: Span, stretch: tuple[int, int]):
    assert Text(Path("a.rl"), "one\ntwo x").stretch(span) == stretch
