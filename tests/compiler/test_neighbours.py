"""What a user's file imports from its own folder, without running any of it."""

import hashlib
from pathlib import Path

import pytest

from rldsl.compiler.neighbours import neighbours
from rldsl.compiler.pipeline import compile_file
from rldsl.diagnostics import DiagnosticError
from tests.compiler.test_functions import write


def files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(folder: Path, text: str) -> list[str]:
    (folder / "mine.py").write_text(text)
    return list(neighbours(folder / "mine.py", "sub/mine.py"))


def test_modules_that_modules_import(tmp_path: Path) -> None:
    files(tmp_path, one="import two\nimport mine", two="def f():\n    import three", three="import one", other="")
    assert found(tmp_path, "import one, json, torch") == ["sub/one.py", "sub/three.py", "sub/two.py"]


def test_packages(tmp_path: Path) -> None:
    for name in ("pack", "pack/inner", "pack/inner/deep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    files(tmp_path, pack__a="from . import b", pack__b="from .inner import c", pack__inner__c="from ..d import X")
    files(tmp_path, pack__d="X = 1", pack__inner__deep__e="from ... import f", pack__f="", names__space="")
    (tmp_path / "pack" / "inner" / "__init__.py").write_text("from .deep import e")
    names = ["__init__", "a", "b", "d", "f", "inner/__init__", "inner/c", "inner/deep/__init__", "inner/deep/e"]
    assert found(tmp_path, "import pack.a") == [f"sub/pack/{name}.py" for name in names]
    assert found(tmp_path, "from names import space") == ["sub/names/space.py"]
    assert found(tmp_path, "from names.space import anything") == ["sub/names/space.py"]


@pytest.mark.parametrize("text", ["import rldsl", "from .. import other", "from ...... import other", "import no.such"])
def test_what_is_not_followed(tmp_path: Path, text: str) -> None:
    (tmp_path / "inside" / "rldsl").mkdir(parents=True)
    (tmp_path / "inside" / "rldsl" / "__init__.py").write_text("")
    files(tmp_path, other="")
    assert found(tmp_path / "inside", text) == []


def test_a_plan_has_them(tmp_path: Path) -> None:
    body = "import helper\ndef brevity(completions: str, answers: str) -> float: ...\n"
    source = write(tmp_path, body, "brevity(completions, answers)")
    files(tmp_path, helper="FACTOR = 3")
    digest = hashlib.sha256(b"FACTOR = 3").hexdigest()
    assert compile_file(source).plan.function("brevity").modules == {"helper.py": digest}
    files(tmp_path, helper="FACTOR = ")
    with pytest.raises(DiagnosticError, match=r"RL0102: `helper.py` is not Python"):
        compile_file(source)
