"""`rldsl new`: begin from a shipped algorithm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rldsl.cli import main, shipped
from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.pipeline import check_file
from rldsl.diagnostics import Severity

NAMES = list(shipped.algorithms())
WITH_PYTHON = [n for n in NAMES if (shipped.folder() / f"{n}.py").is_file()]


def errors(path: Path) -> list[str]:
    return [str(d) for d in check_file(path) if d.severity is Severity.ERROR]


def test_from_grpo(folder, capsys):
    assert main(["new", "mine"]) == 0
    assert capsys.readouterr().out == "wrote mine.rl\nnow: rldsl check mine.rl\n"
    text = (folder / "mine.rl").read_text()
    assert text == (shipped.folder() / "grpo.rl").read_text().replace("algorithm grpo {", "algorithm mine {")
    assert errors(folder / "mine.rl") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_algorithm(folder, name):
    assert main(["new", "mine.rl", "--from", name]) == 0
    assert errors(folder / "mine.rl") == []
    assert load_graph(folder / "mine.rl", read_source(folder / "mine.rl")).name == "mine"
    assert main(["fmt", "--check", "mine.rl"]) == 0


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_in_python(folder, name):
    assert main(["new", "mine", "--python", "--from", name]) == 0
    assert not (folder / "mine.rl").exists()
    assert load_graph(folder / "mine.py", read_source(folder / "mine.py")).name == "mine"


def test_what_it_needs_comes_with_it(folder, capsys):
    assert main(["new", "mine", "--from", "toy/grpo"]) == 0
    assert "wrote copy.jsonl" in capsys.readouterr().out
    assert main(["new", "other", "--from", "toy/ppo"]) == 0
    assert "copy.jsonl" not in capsys.readouterr().out


def test_names(folder):
    assert main(["new", "my-own.py"]) == 0
    assert 'rl.algorithm("my_own")' in (folder / "my-own.py").read_text()


@pytest.mark.parametrize("arguments", [["new", "2nd"], ["new", "a b"], ["new"], ["new", "a.rl", "--python"]])
def test_wrong_use(folder, capsys, arguments):
    before = sorted(folder.iterdir())
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("rldsl new: ")
    assert sorted(folder.iterdir()) == before


def test_replaces_nothing(folder, capsys):
    assert main(["new", "tiny"]) == 1
    assert "RL0101" in capsys.readouterr().err
    (folder / "copy.jsonl").write_text("mine")
    assert main(["new", "a", "--from", "toy/grpo"]) == 1
    assert "`copy.jsonl`" in capsys.readouterr().err
    assert (folder / "copy.jsonl").read_text() == "mine" and not (folder / "a.rl").exists()


def test_unknown_origin(folder, capsys):
    assert main(["new", "a", "--from", "grop"]) == 1
    err = capsys.readouterr().err
    assert "RL0101" in err and "did you mean `grpo`?" in err


def test_missing_folder(folder, capsys):
    assert main(["new", "none/a"]) == 1
    assert "RL0101" in capsys.readouterr().err


def test_list(folder, capsys):
    assert main(["new", "--list"]) == 0
    assert "toy/grpo" in capsys.readouterr().out
    assert main(["new", "--list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == NAMES
    assert main(["ls"]) == 0
    assert "grpo: Group relative policy" in capsys.readouterr().out


def test_each_says_what_it_is():
    assert all(shipped.algorithms().values())
