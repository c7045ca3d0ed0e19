"""A .rl file and its Python twin give the same graph and, to the byte, the same plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.ir import Graph
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan, Source
from rldsl.compiler.plan_io import dumps
from tests.compiler.programs import EXAMPLES
from tests.examples.runs import CASES, NAMES, title


def compiled(path: Path, settings: tuple[str, ...]) -> tuple[Graph, Plan]:
    """The graph when everything about it is checked and roles are inferred, and the plan."""
    graphs: dict[str, Graph] = {}
    options = Options(settings=settings, observe=lambda name, module, _: graphs.update({name: module.graph}))
    plan = compile_file(path, options).plan
    return graphs["check_types"], plan


@pytest.mark.parametrize(("name", "settings"), CASES, ids=title)
def test_the_same_graph_and_plan(name: str, settings: tuple[str, ...]) -> None:
    (graph, plan), (twin, other) = (compiled(EXAMPLES / f"{name}{suffix}", settings) for suffix in (".rl", ".py"))
    assert graph == twin
    first, second = (dumps(msgspec.structs.replace(p, source=Source())) for p in (plan, other))
    assert first == second
    assert plan.source != other.source


def test_every_example_has_a_twin() -> None:
    assert sorted(p.stem for p in EXAMPLES.glob("*.py")) == NAMES
    assert {"grpo", "ppo", "dapo", "tools", "validated", "debate", "distill"} <= set(NAMES)
