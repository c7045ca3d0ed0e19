"""An order of equal depths that the memory plan chose gives the same numbers as the one it was chosen before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rldsl.compiler import pipeline
from rldsl.compiler.ops import OffloadOp, TrainOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from tests.compiler.test_order_memory import MIB, TWO_CRITICS
from tests.runtime.test_executor import run
from tests.runtime.test_residency import numbers

SMALL = TWO_CRITICS.replace("hidden = 384, layers = 4", "hidden = 96, layers = 1").replace("layers = 4", "layers = 1")


def compiled(folder: Path, budget: float) -> Plan:
    settings = ("large=128", "small=124")
    options = Options(settings=settings, cluster="1 x cpu", memory=int(budget * MIB), plan_dir=folder)
    return compile_file(folder / "two.rl", options).plan


def trainings(plan: Plan) -> list[str]:
    return [op.id for op in plan.programs[0].ops if isinstance(op, TrainOp)]


def differing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Plan]:
    """As first ordered, and another order: for the first budget that asks for one."""
    for quarters in range(4 * 97, 4 * 82, -1):
        best = compiled(folder, quarters / 4)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "_relower", lambda *_: None)
            first = compiled(folder, quarters / 4)
        if trainings(first) != trainings(best):
            return first, best
    raise AssertionError("the order never decides")


def test_both_orders_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompts": f"{i % 2}=", "answers": f"{i % 2}"} for i in range(16)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "two.rl").write_text(SMALL)
    first, best = differing(tmp_path, monkeypatch)
    assert any(isinstance(op, OffloadOp) for op in best.ops())
    run("local", 1, first, tmp_path, "first")
    run("local", 1, best, tmp_path, "best")
    assert numbers(tmp_path / "best") == numbers(tmp_path / "first")
    names = sorted(p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*.safetensors"))
    assert names
    for name in names:
        mine, theirs = load_file(tmp_path / "best" / name), load_file(tmp_path / "first" / name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in theirs)
