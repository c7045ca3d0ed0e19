"""Declarations in a script, a module, and the cells of a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import rldsl as rl
from rldsl.compiler.ir import Graph
from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Source
from rldsl.compiler.plan_io import read_plan, source_dir
from rldsl.diagnostics import DiagnosticError
from tests.compiler.python_programs import MINE, SMALL

CELLS = SMALL.split("\n\n\n")


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment
    )


def script(folder: Path, end: str, body: str = SMALL) -> Path:
    path = folder / "small.py"
    lines = "".join(f"    {line}\n" for line in end.splitlines())
    path.write_text(f'{body}\n\nif __name__ == "__main__":\n{lines}')
    return path


def test_script(tmp_path: Path) -> None:
    """Its plan is that of the command line, wherever it is run from."""
    path = script(tmp_path, "assert rl.check()\nprint(rl.compile().write('plan.json'))")
    (tmp_path / "elsewhere").mkdir()
    done = run(str(path), cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "small: no errors\nplan.json\n"
    written = tmp_path / "elsewhere" / "plan.json"
    plan = read_plan(written)
    assert plan.source.path == "../small.py" and source_dir(plan, written) == tmp_path
    mine = msgspec.structs.replace(plan, source=Source())
    assert mine == msgspec.structs.replace(compile_file(path).plan, source=Source())


def test_script_with_settings(tmp_path: Path) -> None:
    end = (
        "made = rl.compile(settings={'lr': 0.5, 'on': False}, world_size=2, deploy='there.rl')\n"
        "import json\n"
        "print(json.dumps([made.plan.parameters, made.plan.world_size, made.plan.cluster]))"
    )
    (tmp_path / "there.rl").write_text("deploy {\n  cluster 2 x cpu\n}\n")
    done = run(str(script(tmp_path, end, f"{SMALL}\n\non = rl.param(True)\n")), cwd=tmp_path)
    assert done.returncode == 0 and "RL0" in done.stderr, done.stderr
    assert json.loads(done.stdout) == [{"lr": 0.5, "on": False}, 2, "cpu"]


def test_script_with_mistakes(tmp_path: Path) -> None:
    wrong = SMALL.replace("(score", "(scor").replace("n=2", "m=2")
    done = run(str(script(tmp_path, "print(rl.check())\nrl.compile()", wrong)), cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("False\n")
    for shown in (done.stdout, done.stderr):
        assert "RL0201" in shown and "RL0207" in shown and "small.py:" in shown
    assert "Traceback" not in done.stderr and "did you mean `score`?" in done.stderr


def test_a_wrong_declaration_ends_a_script_with_its_diagnostic(tmp_path: Path) -> None:
    done = run(str(script(tmp_path, "pass", SMALL.replace("gt=0", "gt='0'"))), cwd=tmp_path)
    assert done.returncode == 1 and "error[RL0105]: `gt` is a number" in done.stderr
    assert "small.py:3:21" in done.stderr and "Traceback" not in done.stderr


def test_a_traceback_of_the_users_own_stays_one(tmp_path: Path) -> None:
    done = run(str(script(tmp_path, "1 / 0")), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


def test_module(tmp_path: Path) -> None:
    """A script beside the module that declares the algorithm."""
    (tmp_path / "parts.py").write_text(SMALL)
    (tmp_path / "main.py").write_text(
        "import rldsl as rl\nimport parts\n\nprint([n.id for n in rl.graph().nodes], rl.compile().plan.algorithm)\n"
    )
    done = run("main.py", cwd=tmp_path)
    assert done.stdout == "['rollout', 'reward', 'advantage', 'update'] main\n", done.stderr


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A notebook's shell, and an empty session."""
    monkeypatch.chdir(tmp_path)
    rl.reset()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    settings = Config()
    settings.HistoryManager.enabled = False
    yield InteractiveShell(config=settings)
    rl.reset()


def cell(shell: InteractiveShell, text: str) -> object:
    done = shell.run_cell(text, store_history=True)
    done.raise_error()
    return done.result


def graph_of(shell: InteractiveShell) -> Graph:
    made = cell(shell, "rl.graph()")
    assert isinstance(made, Graph)
    return made


def test_cells(shell: InteractiveShell, tmp_path: Path) -> None:
    for text in CELLS:
        cell(shell, text)
    assert cell(shell, "rl.check()") is True
    graph = graph_of(shell)
    assert [n.id for n in graph.nodes] == ["rollout", "reward", "advantage", "update"]
    span = graph.nodes[1].span
    assert span is not None and (span.line, span.column) == (2, 5) and "ipython-input-3" in span.file
    (tmp_path / "algorithm.py").write_text(SMALL)
    cell(shell, "made = rl.compile()\nmade.write('plan.json')")
    plan = compile_file(tmp_path / "algorithm.py").plan
    assert read_plan(tmp_path / "plan.json") == msgspec.structs.replace(plan, source=Source())


def test_a_plan_of_a_notebook_stays_with_its_files(shell: InteractiveShell, tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    for text in CELLS:
        cell(shell, text)
    with pytest.raises(DiagnosticError, match="RL0101"):
        cell(shell, "rl.compile().write('plans/plan.json')")


def test_cells_run_again(shell: InteractiveShell) -> None:
    for text in CELLS:
        cell(shell, text)
    before = graph_of(shell)
    for text in (CELLS[2], CELLS[0], CELLS[0], CELLS[3]):
        cell(shell, text)
    assert graph_of(shell) == before


def test_cells_edited(shell: InteractiveShell) -> None:
    blocks = [
        'with rl.validate("test", every=5):\n    rl.metric("accuracy", mean="score")',
        'rl.metric("m", mean="score")\nrl.layout(actor, "generate", "hf", dp=1)',
    ]
    for text in (*CELLS, *blocks):
        cell(shell, text)
    edits = [
        CELLS[0].replace("0.01", "0.05").replace('alphabet="01"', 'alphabet="10"').replace('"answers"', '"truths"'),
        CELLS[2].replace("answers", "truths").replace("rl.Answers", "rl.PromptText"),
        blocks[0].replace("5", "7").replace("accuracy", "best"),
        blocks[1].replace("mean", "max").replace("dp=1", "dp=2"),
    ]
    for text in edits:
        cell(shell, text)
    graph = graph_of(shell)
    assert [(p.name, p.default) for p in graph.params] == [("lr", 0.05)]
    assert len(graph.models) == 1 and "'10'" in repr(graph.models[0].source)
    assert [i.names for i in graph.inputs] == [("prompts", "truths")]
    assert [n.id for n in graph.nodes] == ["rollout", "reward", "advantage", "update", "m"]
    assert graph.nodes[1].reads == ("completions", "truths") and graph.nodes[-1].call.function == "max"
    (block,) = graph.blocks
    assert [n.id for n in block.nodes] == ["best"] and "7" in repr(block.bound)
    assert graph.deploy is not None and "2" in repr(graph.deploy.layouts) and len(graph.deploy.layouts) == 1


def test_a_renamed_node_leaves_the_old_one(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (*CELLS, CELLS[2].replace("def reward", "def judge")):
        cell(shell, text)
    assert cell(shell, "rl.check()") is False
    shown = capsys.readouterr().out
    assert "RL0205" in shown and "rl.reset()" in shown
    cell(shell, "rl.reset()")
    assert not graph_of(shell).nodes


def test_mistakes_are_raised_in_their_cell(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    cell(shell, CELLS[0])
    capsys.readouterr()
    with pytest.raises(DiagnosticError) as raised:
        cell(shell, 'rl.metric("m")')
    (found,) = raised.value.diagnostics
    assert found.code == "RL0105" and found.span is not None and "ipython-input" in found.span.file
    shown = capsys.readouterr().out
    assert "error[RL0105]" in shown and "Traceback" not in shown
    assert cell(shell, "len(rl.graph().nodes)") == 0, "a wrong declaration is not kept"


OWN = [
    "@rl.node\ndef long(completions: rl.Completions) -> rl.Score:\n    return [float(len(c)) for c in completions]",
    "@rl.function\ndef same(completions: str, answers: str) -> float:\n    return float(completions == answers)\n\n\n"
    "@rl.node\ndef reward(completions: rl.Completions, answers: rl.Answers) -> rl.Score:\n"
    "    return same(completions, answers)",
]


@pytest.mark.parametrize("own", OWN)
def test_a_function_of_a_cell_is_in_no_file(shell: InteractiveShell, own: str) -> None:
    for text in CELLS[:2]:
        cell(shell, text)
    with pytest.raises(DiagnosticError) as raised:
        cell(shell, own)
    (found,) = raised.value.diagnostics
    assert found.code == "RL0105" and found.fix is not None and "rl.use" in found.fix


def test_functions_of_a_file_in_a_notebook(shell: InteractiveShell, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    for text in CELLS:
        cell(
            shell,
            text.replace("rl.lib.exact_match", "mine.brevity").replace("lr = ", 'mine = rl.use("mine.py")\nlr = '),
        )
    assert cell(shell, "rl.check()") is True
    assert cell(shell, 'mine.brevity("abc", "", weight=2.0)') == 0.5
    assert cell(shell, "'brevity' in dir(mine) and 'policy_loss' in dir(rl.lib)") is True
    assert [u.path for u in graph_of(shell).uses] == ["mine.py"]
