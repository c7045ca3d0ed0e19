"""The scanner agrees with the parser on what parses, and goes on where the parser stops."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.compiler.expr import references
from rldsl.compiler.ir import Graph
from rldsl.compiler.parse import parse
from rldsl.lsp.scan import Kind, Mode, in_comment, scan, tokens_of
from tests.lsp.conftest import BASE, MAIN

ROOT = Path(__file__).parents[2]
PROGRAMS = [BASE, MAIN, *(p.read_text() for p in sorted((ROOT / "examples").rglob("*.rl")))]


def defined(text: str, *kinds: Kind) -> list[str]:
    return [o.name for o in scan(text).occurrences if o.defines and o.kind in kinds]


def used(text: str, kind: Kind) -> list[str]:
    return [o.name for o in scan(text).occurrences if not o.defines and o.kind is kind]


def all_of(graph: Graph) -> tuple[list, list]:
    """(inputs, nodes) of a graph and its blocks."""
    inputs = [*graph.inputs, *(i for b in graph.blocks for i in b.inputs)]
    return inputs, [*graph.nodes, *(n for b in graph.blocks for n in b.nodes)]


@pytest.mark.parametrize("text", PROGRAMS)
def test_names_are_the_parsers(text: str):
    graph = parse(text, "a.rl")
    inputs, nodes = all_of(graph)
    assert defined(text, Kind.PARAM) == [p.name for p in graph.params]
    assert defined(text, Kind.MODEL) == [m.name for m in graph.models]
    assert sorted(defined(text, Kind.NODE, Kind.METRIC, Kind.OUTPUT)) == sorted(n.id for n in nodes)
    assert defined(text, Kind.BLOCK) == [b.id for b in graph.blocks]
    fields = [f for i in inputs for f in i.names] + [f for n in nodes for f in n.outputs]
    assert sorted(defined(text, Kind.FIELD)) == sorted(fields)


@pytest.mark.parametrize("text", PROGRAMS)
def test_uses_are_the_parsers(text: str):
    graph = parse(text, "a.rl")
    inputs, nodes = all_of(graph)
    heads = [f for b in graph.blocks for f in (*b.carry, *b.collect, b.where) if f]
    read = [a.name for n in nodes for a in n.call.args] + [f.name for f in heads]
    assert sorted(used(text, Kind.FIELD)) == sorted(read)
    functions = [n.call.function for n in nodes if n.call.function and n.call.method != "metric"]
    assert sorted(used(text, Kind.FUNCTION)) == sorted(functions)
    layouts = graph.deploy.layouts if graph.deploy else ()
    models = [n.call.model for n in nodes if n.call.model] + [p.model for p in layouts]
    models += [name for m in graph.models for name in (m.copy_of, m.shares) if name]
    assert sorted(used(text, Kind.MODEL)) == sorted(models)
    keywords = [k for n in nodes for k in (*n.call.keywords, *n.call.options)]
    keywords += [k for m in graph.models for k in (*m.options, *(m.source.keywords if m.source else ()))]
    keywords += [k for i in inputs for k in i.source.keywords] + [k for p in layouts for k in p.axes]
    calls = [m.source for m in graph.models if m.source] + [i.source for i in inputs]
    exprs = [k.value for k in keywords] + [a for c in calls for a in c.args] + [i.batch for i in inputs]
    exprs += [n.when for n in nodes if n.when] + [e for b in graph.blocks for e in (b.bound, b.until) if e]
    assert sorted(used(text, Kind.PARAM)) == sorted(r.name for e in exprs for r in references(e))
    placed = [p.node for p in graph.deploy.places] if graph.deploy else []
    assert sorted(used(text, Kind.NODE)) == sorted([*placed, *(name for n in nodes for name in n.after)])


ONE_LINE = " ".join(" ".join(line.partition("#")[0].split()) for line in MAIN.splitlines())


def test_white_space_does_not_matter():
    assert [(o.kind, o.name, o.defines) for o in scan(ONE_LINE).occurrences] == [
        (o.kind, o.name, o.defines) for o in scan(MAIN).occurrences
    ]


def test_words_of_the_language_are_names_elsewhere():
    text = """algorithm a {
  param model : str = "x"
  param input : int = 1 prompts
  model node : policy = hf(model)
  node model = node.generate(output; n = input) -> loop, validate when input > 1 and model == "x" after node
  node b = node.train f(loop, with, param = validate; model) with input = model
}"""
    assert defined(text, Kind.PARAM) == ["model", "input"]
    assert defined(text, Kind.MODEL) == ["node"]
    assert defined(text, Kind.NODE) == ["model", "b"]
    assert defined(text, Kind.FIELD) == ["loop", "validate"]
    assert used(text, Kind.FIELD) == ["output", "loop", "with", "validate"]
    assert used(text, Kind.PARAM) == ["model", "input", "input", "model", "model", "model"]


BROKEN = [
    "node x = actor.",
    "node x = actor.train",
    "node x = compute f(a, b",
    'input a : text[prompt] = jsonl("',
    "nod x = compute f(a) -> b",
    "param p : int = ",
    "node",
    "loop l max 3 carry {",
    "(((",
    "]])",
    "when when when",
    '"',
]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_next_statement_is_read_again(broken: str):
    before, after = "algorithm a {\n  node one = compute f(x) -> y\n  ", "\n  node two = compute g(y) -> z after one\n}"
    found = [(o.kind, o.name) for o in scan(before + broken + after).occurrences if o.start > len(before + broken)]
    assert found == [
        (Kind.NODE, "two"),
        (Kind.FUNCTION, "g"),
        (Kind.FIELD, "y"),
        (Kind.FIELD, "z"),
        (Kind.NODE, "one"),
    ]


def test_an_unknown_statement_defines_nothing():
    assert defined("algorithm a {\n node a = compute f(x) -> b\n nod c = compute f(x) -> d\n", *Kind) == ["a", "a", "b"]


def test_comments():
    text = 'use "a#b.py" # use # more\nx'
    assert [t.text for t in tokens_of(text)] == ["use", '"a#b.py"', "x"]
    assert in_comment(text, text.index("more")) and not in_comment(text, text.index("b.py"))


def test_the_end_of_a_text_says_what_can_follow():
    assert scan("algorithm a { node x = actor.").mode is Mode.METHOD
    here = scan("algorithm a { loop l max 3 carry t { node x = actor.extend(t; ")
    assert here.mode is Mode.SETTINGS and here.in_call and here.block and here.block.names == ["l"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_text_can_be_scanned(data: st.DataObject):
    words = [t.text for t in tokens_of(MAIN)]
    text = data.draw(
        st.lists(st.sampled_from([*words, "\n", "#", '"', "{", "}", "(", "\x00"]) | st.text(max_size=3)).map(" ".join)
    )
    found = scan(text)
    assert all(text[o.start : o.end] == o.name for o in found.occurrences)
    assert [o.start for o in found.occurrences] == sorted(o.start for o in found.occurrences)
