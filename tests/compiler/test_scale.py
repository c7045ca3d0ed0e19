"""What keeps compiling linear, and plans small on many ranks; seconds are measured by `bench/compile_scale.py`."""

from __future__ import annotations

import gc
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.random_graph import RandomGraph
from rldsl.compiler.ir import Call, FieldArg, changed
from rldsl.compiler.pipeline import Options, compile_file, compile_graph
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import _pretty, dumps
from rldsl.diagnostics import DiagnosticError
from tests.compiler.programs import EXAMPLES, PROGRAM, compiled, graph_of

UPDATE = "  node update    ="
MORE = """\
  node update{k} = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001{tail}
  node old{k} = actor.logprob(tokens, response_mask; temperature = 0.{k}) -> logp{k}
  metric m{k} = mean(logp{k}, response_mask)
"""


def weights(plan: Plan) -> set[tuple[str, str]]:
    return {(a, b) for a, b, kind in plan.edges if kind.startswith("weights")}


def test_as_many_weight_edges_as_nodes() -> None:
    """Who only uses weights comes before the first training, and so before all."""
    more = "".join(MORE.format(k=k, tail="") for k in range(1, 6))
    plan = compiled(PROGRAM.replace(UPDATE, more + UPDATE)).plan
    users = ["rollout", "old", *(f"old{k}" for k in range(1, 6))]
    trainings = [*(f"update{k}" for k in range(1, 6)), "update"]
    chain = set(pairwise(trainings))
    assert weights(plan) == {(user, "update1") for user in users} | chain
    assert max(plan.depths[user] for user in users) < plan.depths["update1"]


def test_a_training_that_is_off_is_followed_by_the_next() -> None:
    off = MORE.format(k=1, tail=" when kl_coef > 0")
    plan = compiled(PROGRAM.replace(UPDATE, off + UPDATE)).plan
    assert weights(plan) == {(user, "update") for user in ("rollout", "old1")}


@pytest.mark.parametrize("layout", ["together", "apart"])
def test_a_plan_is_as_large_for_any_number_of_ranks(layout: str) -> None:
    sizes = []
    for ranks in (8, 131072):
        half = ranks // 2
        apart = (
            f"actor.train : fsdp(dp = {half}) on 0..{half - 1}",
            f"actor.generate : hf(dp = {half}) on {half}..{ranks - 1}",
        )
        layouts = apart if layout == "apart" else ()
        options = Options(settings=(f"batch={ranks}", f"minibatch={ranks}"), cluster=f"{ranks} x h100", layouts=layouts)
        plan = compile_file(EXAMPLES / "ppo.rl", options).plan
        assert plan.world_size == ranks
        assert len(plan.programs) == (2 if apart == layouts else 1)
        sizes.append(len(dumps(plan)))
    assert sizes[1] < sizes[0] + 2000


def test_random_graphs_have_no_dead_nodes() -> None:
    """What `bench/compile_scale.py` measures is work on every node."""
    for seed in range(3):
        made = RandomGraph(150, seed)
        plan = compile_graph(graph_of(made.text), Options(), source_dir=Path()).plan
        assert not [
            d for d in plan.dropped if d.by == "eliminate_dead" and d.what in {n.split()[1] for n in made.lines}
        ]
        assert len(plan.depths) > 120
        assert {"group_mean", "kl_penalty", "actor.train policy_loss", "metric"} <= made.kinds.keys()


def test_the_collector_runs_again_after_a_compilation(tmp_path: Path) -> None:
    (tmp_path / "right.rl").write_text(PROGRAM)
    (tmp_path / "wrong.rl").write_text(PROGRAM.replace("actor.logprob", "actor.logprop"))
    assert gc.isenabled()
    compile_file(tmp_path / "right.rl")
    assert gc.isenabled()
    with pytest.raises(DiagnosticError):
        compile_file(tmp_path / "wrong.rl")
    assert gc.isenabled()
    gc.disable()
    try:
        compile_file(tmp_path / "right.rl")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_changed_is_replace() -> None:
    call = Call(function="f", args=(FieldArg(name="a"), FieldArg(name="b")))
    assert call.reads == ("a", "b")
    other = changed(call, args=(FieldArg(name="c"),))
    assert other == Call(function="f", args=(FieldArg(name="c"),))
    assert (call.reads, other.reads) == (("a", "b"), ("c",))
    with pytest.raises(TypeError, match="arg"):
        changed(call, arg=())


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=6) | st.dictionaries(st.text(max_size=8), v, max_size=6))


def plainly(value: object, depth: int) -> str:
    """What `_pretty` does, as it is said: one line for all that fits."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or len(flat) + 2 * depth <= 160:
        return flat
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        lines = [f"{pad}{json.dumps(k, ensure_ascii=False)}: {plainly(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{end}}}"
    return "[\n" + ",\n".join(pad + plainly(v, depth + 1) for v in value) + f"\n{end}]"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(values)
def test_the_layout_of_a_plan(value: object) -> None:
    assert _pretty(value, 0) == plainly(value, 0)
    assert json.loads(_pretty(value, 0)) == value
