"""The wheel: one top-level name, everything in it, and no torch needed to compile."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation: setuptools is in the environment, and building must not need a network.
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))


def test_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"rldsl"}


@pytest.mark.parametrize(
    "name",
    [
        "rldsl/grammar/rl.lark",
        "rldsl/grammar/reference.md",
        "rldsl/compiler/plan.schema.json",
        "rldsl/compiler/passes/emit_programs.py",
        "rldsl/backends/engines/generate.py",
        "rldsl/errors/RL0307.md",
        "rldsl/py.typed",
        "rldsl/examples/grpo.rl",
        "rldsl/examples/grpo.py",
        "rldsl/examples/toy/copy.jsonl",
        "rldsl/examples/models/Qwen2.5-72B.json",
        "rldsl/compiler/cost/model_facts.py",
    ],
)
def test_holds(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


def test_every_module_is_packaged(wheel: Path) -> None:
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")}
    for room in ("rldsl", "compiler", "backends", "grammar", "examples"):
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).parts
            if any((ROOT / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts))):
                continue
            inside = "/".join(parts if room == "rldsl" else ("rldsl", *parts))
            assert inside in packed, inside


def test_compiles_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Unpacked away from the checkout, with only the core's dependencies importable."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
for heavy in ("torch", "ray", "transformers", "numpy", "vllm"):
    sys.modules[heavy] = None
import rldsl
assert rldsl.__file__.startswith({str(tmp_path)!r}), rldsl.__file__
from rldsl.cli import main
sys.exit(main(["compile", {str(ROOT / "examples" / "ppo.py")!r}, "--emit", {str(tmp_path / "plan.json")!r}]))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert (tmp_path / "plan.json").exists()


def test_shipped_algorithms_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
from rldsl.cli import main, shipped
assert str(shipped.folder()).startswith({str(tmp_path)!r}), shipped.folder()
sys.exit(main(["new", "mine", "--from", "toy/ppo"]) or main(["new", "mine", "--python"]))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"mine.rl", "mine.py", "copy.jsonl"}


@pytest.mark.parametrize("folder", ["compiler", "backends", "grammar"])
def test_guard(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and f"import rldsl.{folder}" in done.stderr
