"""Whole plans: the run folder, the observer, and the same numbers on any number of ranks under any backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from rldsl.backends.data.batch import Column
from rldsl.backends.data.buffer import Buffer, MissingFieldError
from rldsl.backends.folder import moved
from rldsl.backends.rendezvous import Place
from rldsl.backends.worker import device_of
from rldsl.compiler.ops import AnyOp
from rldsl.compiler.plan import Plan, Source
from rldsl.compiler.plan_io import read_plan, source_dir
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import Diagnostic, DiagnosticError
from tests.runtime.plans import grpo, only_compute, user_function


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[Diagnostic] = []
        self.ops: list[str] = []
        self.steps: list[dict[str, float | None]] = []
        self.begun = self.ended = 0

    def on_start(self, plan: Plan, steps: int) -> None:
        self.begun += 1

    def on_warning(self, warning: Diagnostic) -> None:
        self.warnings.append(warning)

    def on_op(self, op: AnyOp) -> None:
        self.ops.append(op.id)

    def on_step(self, metrics: Mapping[str, float | None]) -> None:
        self.steps.append(dict(metrics))

    def on_end(self) -> None:
        self.ended += 1


def run(backend: str, ranks: int, plan: Plan, folder: Path, name: str, steps: int = 3) -> Recorder:
    seen = Recorder()
    import_module(f"rldsl.backends.{backend}").run(
        plan, steps=steps, world_size=ranks, run_dir=folder / name, observer=seen, source_dir=folder, timeout_s=60.0
    )
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank in this process: what all others must equal."""
    folder = tmp_path_factory.mktemp("base")
    run("local", 1, grpo(folder), folder, "base")
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder(base: Path) -> None:
    made = base / "base"
    assert {p.name for p in made.iterdir()} == {"plan.json", "metrics.jsonl", "reward.png", "checkpoint"}
    assert read_plan(made / "plan.json") == grpo(base)
    assert [m["step"] for m in lines(made)] == [0, 1, 2]
    last = lines(made)[-1]
    assert last["samples"] == 32 and last["tokens"] > last["response_tokens"] > 0
    assert {"score", "tokens_per_s", "seconds", "seconds/rollout", "update/loss", "update/grad_norm"} <= last.keys()


@pytest.mark.parametrize(
    ("backend", "ranks", "generating"), [("torchrun", 2, None), ("torchrun", 4, 2), ("ray", 2, None)]
)
def test_any_ranks_give_the_same(base: Path, tmp_path: Path, backend: str, ranks: int, generating: int | None) -> None:
    plan = grpo(tmp_path, generate_on=generating, world=ranks if generating else None)
    assert verify_plan(plan) == []
    seen = run(backend, ranks, plan, tmp_path, "run")
    ours, theirs = lines(tmp_path / "run"), lines(base / "base")
    for a, b in zip(ours, theirs, strict=True):
        for name in ("score", "samples", "tokens", "response_tokens"):
            assert a[name] == pytest.approx(b[name], rel=1e-9)
        for name in ("update/loss", "update/grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)
    mine, other = weights(tmp_path / "run"), weights(base / "base")
    assert max(float((mine[n] - other[n]).norm() / other[n].norm()) for n in other) < 1e-4
    assert [s["step"] for s in seen.steps] == [0, 1, 2] and (seen.begun, seen.ended) == (1, 1)
    assert seen.ops == [op.id for op in plan.program(0).ops] * 3


def test_a_run_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    plan = grpo(tmp_path)
    (tmp_path / "task.jsonl").unlink()
    with pytest.raises(DiagnosticError, match="RL0603"):
        run("local", 1, plan, tmp_path, "run")
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_comes_out_once(tmp_path: Path) -> None:
    body = "def user(prompts):\n    if prompts == '3=':\n        raise ValueError('three')\n    return 1.0\n"
    plan = only_compute(tmp_path, user_function(tmp_path, body, per_row=True))
    with pytest.raises(DiagnosticError) as caught:
        run("torchrun", 2, plan, tmp_path, "run", steps=5)
    found = caught.value.diagnostics
    assert len(found) == 1 and found[0].code == "RL0705" and "prompts = '3='" in found[0].notes[0]
    assert found[0].span is not None and found[0].span.line == 3


@pytest.mark.parametrize(("backend", "ranks"), [("local", 2), ("torchrun", 3), ("ray", 16)])
def test_sizes_that_do_not_fit(tmp_path: Path, backend: str, ranks: int) -> None:
    with pytest.raises(DiagnosticError, match="RL0707"):
        run(backend, ranks, grpo(tmp_path), tmp_path, "run")
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(Place(rank=1, world_size=2, local_rank=1, local_world_size=2)) == torch.device("cuda", 1)
    with pytest.raises(DiagnosticError, match="RL0708: 4 ranks on a host with 2 GPUs"):
        device_of(Place(rank=0, world_size=4, local_rank=0, local_world_size=4))


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldsl.backends.engines.find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(DiagnosticError) as caught:
        run("ray", 2, grpo(tmp_path), tmp_path, "run")
    found = caught.value.diagnostics[0]
    assert found.code == "RL0601" and found.fix == "pip install 'rldsl[ray]'"


def test_a_buffer_names_op_and_field() -> None:
    buffer = Buffer()
    with pytest.raises(MissingFieldError, match=r"op `update` reads the field `score`.*never written"):
        buffer.get("score", op="update")
    ids = torch.tensor([8, 9])
    buffer.put("score", Column(ids, torch.tensor([1.0, 2.0])))
    buffer.free("score", op="free:1")
    with pytest.raises(MissingFieldError, match="freed by `free:1`"):
        buffer.get("score", op="update")


def test_a_buffer_aligns_rows_by_id() -> None:
    buffer = Buffer()
    buffer.put("answers", Column(torch.tensor([4, 5]), ["a", "b"]))
    buffer.put("score", Column(torch.tensor([11, 10, 9, 8]), torch.tensor([3.0, 2.0, 1.0, 0.0]), 2))
    got = buffer.aligned(["answers", "score"], per_prompt=2, op="x")
    assert got["answers"].data == ["a", "a", "b", "b"] and got["score"].data.tolist() == [0.0, 1.0, 2.0, 3.0]
    buffer.put("other", Column(torch.tensor([11, 10, 9, 7]), torch.zeros(4), 2))
    with pytest.raises(MissingFieldError, match="rows of `other`"):
        buffer.aligned(["score", "other"], per_prompt=2, op="x")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_run_folder_plan_finds_its_source(tmp_path: Path) -> None:
    """The plan that a run leaves can be run again from anywhere: user files lie beside the source."""
    source = tmp_path / "algorithms"
    source.mkdir()
    (source / "a.rl").write_text("")
    plan = msgspec.structs.replace(grpo(tmp_path), source=Source(path="algorithms/a.rl"))
    (tmp_path / "runs" / "one").mkdir(parents=True)
    left = moved(plan, source, tmp_path / "runs" / "one")
    assert source_dir(left, tmp_path / "runs" / "one" / "plan.json") == source.resolve()


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2)])
def test_warnings_reach_the_user_once(tmp_path: Path, backend: str, ranks: int) -> None:
    plan = only_compute(tmp_path, user_function(tmp_path, "def user(prompts):\n    return [1.0] * len(prompts)\n"))
    (tmp_path / "task.jsonl").write_text('{"prompts": "1="}\n' * 3)
    seen = run(backend, ranks, plan, tmp_path, "few", steps=2)
    assert [w.code for w in seen.warnings] == ["RL0611"] and len(seen.steps) == 2
