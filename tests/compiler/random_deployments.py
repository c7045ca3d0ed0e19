"""Hypothesis strategies: deployments of a correct program, on overlapping and disjoint ranks, with axes; few are wrong."""

from __future__ import annotations

from hypothesis import strategies as st

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Deploy, Graph, Keyword, Method, PhaseLayout, Place
from rldsl.compiler.methods import ENGINE_AXES, ENGINES
from rldsl.compiler.plan import Phase

_SIZES = (1, 1, 1, 2, 2, 4)
_FIRST = (0, 0, 0, 1, 2, 4, 4, 8)


@st.composite
def deployments(draw: st.DrawFn, graph: Graph) -> Deploy:
    """Layouts of some of the phases of `graph`, and some of its nodes without a model on ranks of their own."""
    nodes = {n.id: n for n in graph.nodes} | {f"{b.id}.{n.id}": n for b in graph.blocks for n in b.nodes}
    asked = {(n.call.model, n.call.method) for n in nodes.values() if n.call.model}
    trained = {graph.model_of[m].shares or m for m, method in asked if m and method is Method.TRAIN}
    phases = {(m, _phase(m, method, trained)) for m, method in asked if m and method and not graph.model_of[m].shares}
    layouts = tuple(draw(_layouts(m, phase)) for m, phase in sorted(phases) if draw(st.integers(0, 2)))
    places = tuple(
        Place(node=name, ranks=draw(_ranks(draw(st.sampled_from(_SIZES)))))
        for name, node in nodes.items()
        if node.call.model is None and node.call.method is not Method.COLLECT and not draw(st.integers(0, 3))
    )
    count = draw(st.sampled_from((None, None, None, 16, 4)))
    return Deploy(count=count, cluster=count and "cpu", layouts=layouts, places=places)


def _phase(model: str, method: Method, trained: set[str]) -> Phase:
    if method in (Method.GENERATE, Method.EXTEND):
        return Phase.GENERATE
    return Phase.TRAIN if model in trained else Phase.INFER


@st.composite
def _ranks(draw: st.DrawFn, size: int) -> tuple[int, int]:
    first = draw(st.sampled_from(_FIRST))
    return first, first + size - 1


@st.composite
def _layouts(draw: st.DrawFn, model: str, phase: Phase) -> PhaseLayout:
    engine = draw(st.sampled_from(ENGINES[phase]))
    sizes = {axis: draw(st.sampled_from(_SIZES)) for axis in ENGINE_AXES[engine] if axis == "dp" or draw(st.booleans())}
    size = sizes["dp"] * sizes.get("tp", 1) * sizes.get("cp", 1) * sizes.get("pp", 1)
    ranks = draw(_ranks(size)) if phase is Phase.TRAIN or draw(st.integers(0, 3)) else None
    if ranks is not None and draw(st.booleans()):
        del sizes["dp"]
    axes = tuple(Keyword(name=axis, value=Literal(value=n)) for axis, n in sizes.items())
    return PhaseLayout(model=model, phase=phase.value, engine=engine, axes=axes, ranks=ranks)
