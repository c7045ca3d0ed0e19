"""The reader of plan.json that other tools copy: alone, without rldsl or anything installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rldsl.plan_reader
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan_io import dumps
from rldsl.plan_reader import PlanError, digest, loads

EXAMPLES = Path(rldsl.__file__).parent / "examples"
NAMES = ("grpo", "dapo", "validated", "tools")
SPLIT = Options(world_size=4, layouts=("actor.generate : hf(dp = 2)",))


def text_of(name, options=None):
    return dumps(compile_file(EXAMPLES / f"{name}.rl", options).plan)


def changed(text, **values):
    return json.dumps({**json.loads(text), **values})


@pytest.fixture(scope="module")
def split():
    return text_of("grpo", SPLIT)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_what_the_compiler_writes(name):
    text = text_of(name)
    plan = loads(text)
    assert plan.algorithm == name
    assert digest(plan.body) == json.loads(text)["hash"]
    assert [op["id"] for op in plan.program(0, 1)] == [op["id"] for op in plan.body["programs"][0]["ops"]]


def test_a_rank_has_its_own_coordinates(split):
    plan = loads(split)
    ops = {op["id"]: op for op in plan.program(1)}
    assert ops["rollout"]["ranks"] == [[0, 2]]
    assert ops["load:prompts"]["prompts"] == [1, 3]
    assert ops["reshard:reward:ranks0-1"]["prompts"] == [1]
    other = {op["id"]: op for op in plan.program(3)}
    assert "rollout" not in other
    assert other["reshard:reward:ranks0-1"]["prompts"] == [3]


def test_copies_hold_the_same_rows():
    layouts = ("actor.train : megatron(tp = 2) on 0..3", "actor.generate : vllm(tp = 2, pp = 2) on 4..7")
    plan = loads(text_of("grpo", Options(settings=("model=Qwen/Qwen2.5-7B",), world_size=8, layouts=layouts)))
    group = next(p["group"] for p in plan.body["phases"] if p["phase"] == "train")
    assert [plan.coordinates(group, rank)["dp"] for rank in range(4)] == [0, 0, 1, 1]
    ops = [{op["id"]: op for op in plan.program(rank)} for rank in range(8)]
    assert [o["update"]["prompts"] for o in ops[:4]] == [[0, 2], [0, 2], [1, 3], [1, 3]]
    assert [o["load:prompts"]["prompts"] for o in ops[4:]] == [[0, 1, 2, 3]] * 4
    assert ops[5]["rollout"]["coordinates"] == {"tp": 1, "cp": 0, "dp": 0, "pp": 0}
    assert ops[6]["rollout"]["coordinates"] == {"tp": 0, "cp": 0, "dp": 0, "pp": 1}


def test_positions_of_all_ranks_are_the_batch():
    plan = loads(text_of("dapo"))
    for size in (1, 2):
        loads_of = [[op["prompts"] for op in plan.program(rank, size) if op["op"] == "load"] for rank in range(size)]
        for shares in zip(*loads_of, strict=True):
            assert sorted(i for share in shares for i in share) == list(range(8))


@pytest.mark.parametrize(
    ("rank", "world", "said"),
    [(4, None, "no rank 4 among 4"), (-1, None, "no rank -1"), (0, 8, "exactly 4 ranks, not for 8")],
)
def test_ranks_that_are_none(split, rank, world, said):
    with pytest.raises(PlanError, match=said):
        loads(split).program(rank, world)


@pytest.mark.parametrize(("world", "said"), [(None, "say how many"), (3, "divides 4, not 3"), (0, "not 0")])
def test_a_plan_for_any_number_of_ranks_needs_one_that_fits(world, said):
    with pytest.raises(PlanError, match=said):
        loads(text_of("grpo")).program(0, world)


def test_what_is_no_plan(split):
    for text, said in (
        ("{", "no JSON"),
        ("[]", "no schema version"),
        (changed(split, schema="2.0"), "plan schema 2.0"),
        (changed(split, seed=7), "was changed"),
        (json.dumps({"schema": "1.0", "hash": digest({"schema": "1.0"})}), "it has no 'algorithm'"),
    ):
        with pytest.raises(PlanError, match=said):
            loads(text)


def test_keys_of_a_newer_minor_version_are_kept(split):
    body = {**json.loads(split), "schema": "1.9", "cost": {"seconds": 3}}
    plan = loads(json.dumps({**body, "hash": digest(body)}))
    assert plan.body["cost"] == {"seconds": 3}
    assert plan.program(0)


def test_another_source_is_the_same_plan(split):
    assert loads(changed(split, source={"path": "elsewhere.rl"})).algorithm == "grpo"


def test_a_copy_runs_alone(tmp_path, split):
    """-I: no paths of ours, -S: no installed packages."""
    shutil.copy(rldsl.plan_reader.__file__, tmp_path / "reader.py")
    (tmp_path / "plan.json").write_text(split)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "reader.py", "plan.json", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [json.loads(line)["op"] for line in done.stdout.splitlines()][:2] == ["sync_weights", "reshard"]
    code = "import sys; sys.path.insert(0, '.'); import reader; reader.load('plan.json'); assert 'msgspec' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, timeout=60, check=True)
    wrong = subprocess.run(
        [sys.executable, "-I", "-S", "reader.py", "plan.json", "9"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (wrong.returncode, wrong.stderr) == (1, "reader.py: there is no rank 9 among 4\n")
