"""`rldsl show` of a plan with loops, as a user types it."""

import pytest

from rldsl.cli import main
from rldsl.compiler.plan_io import write_plan
from tests.render.loops import collecting


@pytest.fixture
def plan_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    write_plan(collecting(), tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


@pytest.mark.parametrize("form", ["text", "mermaid", "dot"])
def test_iterations_are_shown_once_or_all(plan_file, capsys, form):
    assert main(["show", plan_file, "--format", form]) == 0
    once = capsys.readouterr().out
    assert "loop resample, at most 3 rounds" in once
    assert "validate test, every 10 steps" in once
    assert main(["show", plan_file, "--format", form, "--unrolled"]) == 0
    every = capsys.readouterr().out
    assert [f"round {k} of 3" in every for k in (1, 2, 3)] == [True, True, True]
    assert "at most 3 rounds" not in every


def test_one_rank_has_no_graph(plan_file, capsys):
    assert main(["show", plan_file, "--rank", "3"]) == 0
    shown = capsys.readouterr().out
    assert "╭" not in shown
    assert "until resample is full" in shown
