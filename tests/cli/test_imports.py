"""A laptop without torch compiles: nothing of the core imports what is heavy, and a cold start is quick."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import rldsl.cli
import rldsl.compiler
import rldsl.render

HEAVY = ("torch", "ray", "vllm", "megatron", "transformers", "numpy", "accelerate", "pyarrow", "matplotlib", "sympy")


def modules() -> list[str]:
    packages = (rldsl.cli, rldsl.compiler, rldsl.render)
    found = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    return ["rldsl", "rldsl.cli", "rldsl.compiler", "rldsl.render", *found]


def loaded_after(code: str, cwd: str) -> set[str]:
    """Top-level names of the modules in memory after a fresh process has run `code`."""
    report = "import json, sys; sys.stderr.write(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=60, check=True, cwd=cwd
    )
    return set(json.loads(done.stderr))


def test_the_core_imports_nothing_heavy(tmp_path):
    code = "\n".join(f"import {name}" for name in modules())
    assert loaded_after(code, str(tmp_path)) & set(HEAVY) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "tiny.rl", "--emit", "plan.json"],
        ["show", "tiny.rl"],
        ["show", "tiny.rl", "--format", "html"],
        ["explain", "tiny.rl", "reward"],
        ["diff", "tiny.rl", "tiny.rl"],
        ["ls"],
        ["fmt", "tiny.rl"],
        ["new", "mine"],
    ],
)
def test_commands_import_nothing_heavy(folder, arguments):
    code = f"from rldsl.cli import main\nassert main({arguments!r}) == 0"
    assert loaded_after(code, str(folder)) & set(HEAVY) == set()


def test_compiling_draws_nothing_and_needs_no_rich(folder):
    code = "from rldsl.cli import main\nassert main(['compile', 'tiny.rl', '--emit', 'plan.json']) == 0"
    assert "rich" not in loaded_after(code, str(folder))


def test_the_page_of_a_code_needs_no_compiler(folder):
    code = "from rldsl.cli import main\nassert main(['explain', 'RL0201']) == 0"
    assert loaded_after(code, str(folder)) & {"lark", "msgspec", "networkx", "rich"} == set()


def test_showing_a_plan_needs_no_parser(folder):
    assert rldsl.cli.main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    code = "from rldsl.cli import main\nassert main(['show', 'plan.json']) == 0"
    assert loaded_after(code, str(folder)) & {"lark"} == set()
