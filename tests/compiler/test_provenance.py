"""Every op of a plan says which passes made it, and can be traced to a statement of the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldsl.compiler.ops import LoadOp
from rldsl.compiler.pipeline import PASS_NAMES, Options, compile_file
from rldsl.render.explain import HELPERS, Explainer
from rldsl.render.nodes import node_ids
from rldsl.render.scopes import general

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.rl"))


def assert_explained(file: Path, options: Options) -> None:
    plan = compile_file(file, options).plan
    explainer = Explainer(plan)
    lines = (Path(plan.source.path).read_text() if file.suffix == ".rl" else "").splitlines()
    for op in plan.ops():
        assert {op.by, *(r.by for r in op.because)} <= set(PASS_NAMES), op.id
        assert all(r.why for r in op.because)
        for name in (op.id,) if isinstance(op, HELPERS) else node_ids(op):
            asked = general(op.columns[0]) if isinstance(op, LoadOp) else name
            place = explainer.pages(asked)[0].place
            assert place, (op.id, asked)
            path, line, column = place.rsplit(":", 2)
            assert Path(path).is_file() and int(column) > 1, (op.id, place)
            assert lines[int(line) - 1].lstrip().startswith(("node", "input", "metric", "output", "loop")), (
                op.id,
                place,
            )


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_every_op_of_the_examples(file):
    assert_explained(file, Options())


@pytest.mark.parametrize("name", ["ppo", "grpo", "validated"])
def test_every_op_of_a_plan_with_moves(name, tmp_path):
    deploy = tmp_path / "apart.rl"
    deploy.write_text(
        "deploy {\n  cluster 4 x cpu\n  actor.train : fsdp(dp = 2) on 0..1\n  actor.generate : hf(dp = 2) on 2..3\n}\n"
    )
    file = next(f for f in EXAMPLES if f.stem == name)
    assert_explained(file, Options(deploy=deploy))
