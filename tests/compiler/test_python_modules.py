"""A Python algorithm that imports modules beside it: their declarations are its own, whenever it is compiled."""

import importlib
import sys
from pathlib import Path

import pytest

from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.ir import Graph
from rldsl.compiler.pipeline import Options, check_file, compile_file
from tests.compiler.python_programs import SMALL

ACTOR = 'actor = rl.policy("actor", rl.scratch(alphabet="01"))\n'


def split(folder: Path, common: str = f"import rldsl as rl\n\n{ACTOR}") -> Path:
    """The small algorithm with its model in a module beside it."""
    assert ACTOR in SMALL
    (folder / "common.py").write_text(common)
    path = folder / "algorithm.py"
    path.write_text("from common import actor\n" + SMALL.replace(ACTOR, ""))
    return path


def graph(path: Path) -> Graph:
    return load_graph(path, read_source(path))


def test_declared_again_each_time(tmp_path: Path) -> None:
    path = split(tmp_path)
    first, second = graph(path), graph(path)
    assert first == second and [m.name for m in first.models] == ["actor"]
    span = first.models[0].span
    assert span is not None and Path(span.file) == tmp_path.resolve() / "common.py" and span.line == 3
    assert "common" not in sys.modules and compile_file(path).plan.models


def test_a_changed_module_is_read_anew(tmp_path: Path) -> None:
    path = split(tmp_path)
    graph(path)
    # As long as before, and within the second that a compiled module's time stamp counts.
    split(tmp_path, f"import rldsl as rl\n\n{ACTOR}".replace('"01"', '"10"'))
    (source,) = [m.source for m in graph(path).models]
    assert source is not None and "10" in repr(source.keywords)
    assert not (tmp_path / "__pycache__").exists()


def test_what_was_imported_before_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = split(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    common = importlib.import_module("common")
    try:
        assert [m.name for m in graph(path).models] == ["actor"]
        assert sys.modules["common"] is common
    finally:
        del sys.modules["common"]


def test_a_module_of_another_folder_does_not_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "common.py").write_text("actor = None\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    importlib.import_module("common")
    try:
        assert [m.name for m in graph(split(tmp_path)).models] == ["actor"]
    finally:
        del sys.modules["common"]


def test_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    for folder in (tmp_path / "parts", tmp_path / "parts" / "deep"):
        (folder / "__init__.py").write_text("")
    (tmp_path / "parts" / "deep" / "models.py").write_text(f"import rldsl as rl\n\n{ACTOR}")
    path = tmp_path / "algorithm.py"
    path.write_text("from parts.deep.models import actor\n" + SMALL.replace(ACTOR, ""))
    assert graph(path) == graph(path) and len(graph(path).models) == 1


def test_two_folders_with_modules_of_one_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        split(tmp_path / name, f"import rldsl as rl\n\n{ACTOR}".replace('"actor", ', f'"{name}", '))
    assert [graph(tmp_path / n / "algorithm.py").models[0].name for n in ("one", "two")] == ["one", "two"]


def test_mistakes_point_into_the_module(tmp_path: Path) -> None:
    for text, code, line in (
        ("import rldsl as rl\n\nactor = rl.policy('actor')\n", "RL0105", 3),
        ("import rldsl as rl\nactor = nothing\n", "RL0104", 2),
        ("import rldsl as rl\nactor = rl.policy(\n", "RL0102", 2),
    ):
        (found,) = [d for d in check_file(split(tmp_path, text), Options()) if d.severity == "error"]
        assert found.code == code and found.span is not None
        assert (Path(found.span.file).name, found.span.line) == ("common.py", line)


def test_a_function_of_a_module_is_used(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "import rldsl as rl\n\n\n@rl.function\ndef same(completions: str, answers: str) -> float:\n"
        "    return float(completions == answers)\n"
    )
    path = tmp_path / "algorithm.py"
    path.write_text("from rewards import same\n" + SMALL.replace("rl.lib.exact_match", "same"))
    plan = compile_file(path).plan
    assert plan.function("same").file == "rewards.py"
