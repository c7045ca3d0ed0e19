"""The same source gives the same bytes of plan.json, whatever process, folder, hash seed or Python compiles it.

Other Pythons are those that `RLDSL_PYTHONS` lists (their paths, separated as in PATH), else what is found by name and
by pyenv. Each gets what the core needs from pip, in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan_io import dumps
from tests.compiler.programs import ALGORITHMS, EXAMPLES

ROOT = Path(__file__).parents[2]
NAMES = sorted(str(p.relative_to(EXAMPLES)) for p in (*ALGORITHMS, *EXAMPLES.rglob("*.py")))
PLANS = [n for n in NAMES if n != "toy/oracle.py"]  # that one holds functions
SUPPORTED = ("3.11", "3.12", "3.13")
NEEDED = ("lark>=1.2.2", "msgspec>=0.19", "networkx>=3.2", "rich>=13.7")
# Compiles files of a folder one after the other, and prints their plans as if each were written beside its source.
SCRIPT = """
import json, sys
from pathlib import Path
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan_io import dumps
folder = Path(sys.argv[1])
plans = {}
for name in sys.argv[2:]:
    path = folder / name
    plans[name] = dumps(compile_file(path, Options(plan_dir=path.parent)).plan)
assert "torch" not in sys.modules
print(json.dumps(plans))
"""


@cache
def here() -> dict[str, str]:
    """The plans as this process makes them."""
    paths = {name: EXAMPLES / name for name in PLANS}
    return {n: dumps(compile_file(p, Options(plan_dir=p.parent)).plan) for n, p in paths.items()}


def elsewhere(
    *,
    names: list[str] = PLANS,
    folder: Path = EXAMPLES,
    python: str = sys.executable,
    cwd: Path = ROOT,
    seed: str = "0",
) -> dict[str, str]:
    """The plans as another process makes them."""
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-c", SCRIPT, str(folder), *names]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plans: dict[str, str] = json.loads(done.stdout)
    return plans


def differing(plans: dict[str, str]) -> list[str]:
    """Examples whose plan is not that of this process."""
    assert plans.keys() == here().keys()
    return [name for name, text in plans.items() if text != here()[name]]


def test_all_examples_are_compared() -> None:
    assert {Path(n).stem for n in PLANS} >= {"grpo", "ppo", "dapo", "tools", "debate", "validated"}
    assert {n.removesuffix(".py") for n in PLANS if n.endswith(".py")} == {
        n.removesuffix(".rl") for n in PLANS if n.endswith(".rl") and "/" not in n
    }


@pytest.mark.parametrize("seed", ["0", "1", "4242", "random"])
def test_another_process_and_hash_seed(seed: str) -> None:
    assert differing(elsewhere(seed=seed)) == []


def test_another_working_directory(tmp_path: Path) -> None:
    assert differing(elsewhere(cwd=tmp_path)) == []
    assert differing(elsewhere(cwd=EXAMPLES / "toy", folder=Path(".."))) == []


def test_after_other_compilations() -> None:
    """What was compiled before in the process leaves nothing behind."""
    assert differing(elsewhere(names=PLANS[::-1])) == []


def test_another_order_of_files_in_the_folder(tmp_path: Path) -> None:
    """Files created in other orders lie in other orders in a folder, beside others that come and go."""
    for number, names in enumerate((NAMES[::-1], NAMES[1::2] + NAMES[::2])):
        folder = tmp_path / f"copy{number}"
        (folder / "toy").mkdir(parents=True)
        for left_over in ("aaa.rl", "zzz.py"):
            (folder / left_over).write_text("not compiled")
        for name in [*(p.relative_to(EXAMPLES) for p in EXAMPLES.rglob("*.jsonl")), *names]:
            shutil.copyfile(EXAMPLES / name, folder / name)
        assert differing(elsewhere(folder=folder)) == []


def test_the_command_writes_the_same_file(tmp_path: Path) -> None:
    """From wherever it is called, and however the paths are written."""
    shutil.copy(EXAMPLES / "ppo.rl", tmp_path)
    (tmp_path / "deep").mkdir()
    for cwd, source, target in ((tmp_path, "ppo.rl", "a.json"), (tmp_path / "deep", "../ppo.rl", f"{tmp_path}/b.json")):
        command = [sys.executable, "-m", "rldsl", "compile", source, "--emit", target]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text() == here()["ppo.rl"]


# Other versions of Python


def candidates() -> Iterator[str]:
    """Interpreters that there may be."""
    if listed := os.environ.get("RLDSL_PYTHONS"):
        yield from listed.split(os.pathsep)
        return
    for version in SUPPORTED:
        if path := shutil.which(f"python{version}"):
            yield path
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        yield from map(str, sorted(Path(root).glob("versions/3.*/bin/python")))


def version_of(python: str) -> str | None:
    """Such as 3.12; None for what does not run, as a pyenv shim of a version that is not chosen."""
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", show], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def python_of(version: str) -> str:
    """An interpreter of this version."""
    found = next((p for p in candidates() if version_of(p) == version), None)
    if found is None:
        pytest.skip(f"no Python {version} here; name one in RLDSL_PYTHONS")
    return found


def with_needs(python: str, folder: Path) -> str:
    """`python` itself if it has what the core needs, else a new environment that has."""
    imports = "import lark, msgspec, networkx, rich"
    if subprocess.run([python, "-c", imports], capture_output=True, check=False).returncode == 0:
        return python
    own = folder / "bin" / "python"
    install = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDED]
    for command in ([python, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        if done.returncode:
            pytest.skip(f"pip gives this Python nothing to compile with: {done.stderr.strip()[-300:]}")
    return str(own)


OTHERS = [v for v in SUPPORTED if v != f"{sys.version_info.major}.{sys.version_info.minor}"]


@pytest.mark.parametrize("version", OTHERS)
def test_another_python(version: str, tmp_path: Path) -> None:
    python = with_needs(python_of(version), tmp_path / "environment")
    assert differing(elsewhere(python=python, cwd=tmp_path, seed="random")) == []
