"""The IR prints to text that parses back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.compiler.expr import BINARY, Binary, Expr, Literal, ParamRef, Unary, negate
from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.printer import print_graph
from tests.compiler.programs import EXAMPLES, PPO, PROGRAM, graph_of

SOURCES = sorted(EXAMPLES.rglob("*.rl"))


@pytest.mark.parametrize(
    "text", [PROGRAM, PPO, *(p.read_text() for p in SOURCES)], ids=["small", "ppo", *(p.stem for p in SOURCES)]
)
def test_text_is_a_fixed_point(text: str) -> None:
    graph = graph_of(text)
    printed = print_graph(graph)
    assert graph_of(printed) == graph
    assert print_graph(graph_of(printed)) == printed


def test_python_prints_as_its_twin() -> None:
    python = EXAMPLES / "grpo.py"
    traced = load_graph(python, read_source(python))
    again = graph_of(print_graph(traced))
    assert again == traced


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
    from rldsl.compiler.expr import format_expr

    text = f"algorithm a {{\n  node n = compute f() when {format_expr(expr)}\n}}\n"
    assert graph_of(text).nodes[0].when == expr
