"""Examples, fixtures and expressions print to text that parses back; random graphs are in `test_random_graphs`."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.compiler.expr import BINARY, Binary, Expr, Literal, ParamRef, Unary, format_expr, negate
from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.parse import parse
from rldsl.compiler.printer import print_graph
from rldsl.diagnostics import Diagnostics
from tests.compiler.programs import ALGORITHMS, CLUSTERS, EXAMPLES, PPO, PROGRAM, graph_of
from tests.compiler.wrong_programs import Program, all_programs

REFERENCE = (EXAMPLES.parent / "grammar" / "reference.md").read_text()
TEXTS = {
    "small": PROGRAM,
    "ppo": PPO,
    **{p.relative_to(EXAMPLES).as_posix(): p.read_text() for p in (*ALGORITHMS, *CLUSTERS)},
    **{f"reference {i}": text for i, text in enumerate(re.findall(r"```rl\n(.*?)```", REFERENCE, re.DOTALL))},
}
# Those without a `.rl` file of the same name are functions, no algorithms.
PYTHON = [p for p in sorted(EXAMPLES.rglob("*.py")) if p.with_suffix(".rl").exists()]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_is_a_fixed_point(text: str) -> None:
    graph = graph_of(text)
    printed = print_graph(graph)
    assert graph_of(printed) == graph
    assert print_graph(graph_of(printed)) == printed


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.stem)
def test_python_is_text_too(path: Path) -> None:
    traced = load_graph(path, read_source(path))
    assert graph_of(print_graph(traced)) == traced


@pytest.mark.parametrize("one", all_programs(), ids=lambda p: f"{p.file}: {p.name}")
def test_wrong_programs_are_graphs_too(one: Program) -> None:
    """What can be read of them: statements with errors are left out."""
    graph = parse(one.text, "test.rl", Diagnostics())
    graph = replace(graph, name=graph.name or "nameless")  # statements may stand outside of any algorithm
    printed = print_graph(graph)
    assert graph_of(printed) == graph
    assert print_graph(graph_of(printed)) == printed


@pytest.mark.parametrize(
    "line",
    [
        "deploy {\n  cluster 8 x h100\n  actor.train : fsdp(dp = 8)\n}\n",
        'use "mine.py"\n\nalgorithm a {\n  param x : float = -0.5\n}\n',
        'algorithm a {\n  param s : str = "a \\"quoted\\" \\\\ line\\n"\n}\n',
    ],
)
def test_identity(line: str) -> None:
    assert print_graph(graph_of(line)) == line


def exprs() -> st.SearchStrategy[Expr]:
    numbers = st.integers(0, 10**6) | st.floats(0, 1e6, allow_nan=False)
    leaves = st.builds(lambda v: Literal(value=v), numbers | st.booleans()) | st.builds(
        lambda n: ParamRef(name=n), st.sampled_from(["x", "kl_coef", "model", "node", "tokens"])
    )

    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        binary = st.builds(
            lambda op, a, b: Binary(op=op, left=a, right=b), st.sampled_from(sorted(BINARY)), inner, inner
        )
        return binary | inner.map(negate) | inner.map(lambda e: Unary(op="not", operand=e))

    return st.recursive(leaves, grow, max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(exprs())
def test_every_expression_survives(expr: Expr) -> None:
    text = f"algorithm a {{\n  node n = compute f() when {format_expr(expr)}\n}}\n"
    assert graph_of(text).nodes[0].when == expr
