"""The deployments that ship, and every command of examples/README.md that names one."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from rldsl.cli.entry import main
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan_io import read_plan
from tests.compiler.programs import CLUSTERS, EXAMPLES

README = (EXAMPLES / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMPILED = [line for line in LINES if line.startswith("rldsl compile")]


@pytest.mark.parametrize("line", COMPILED)
def test_it_fits(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    assert re.search(r"fits, peak \d+\.\d of 75\.1 GiB", capsys.readouterr().out)
    assert main(["show", "plan.json", "--memory"]) == 0
    plan = read_plan(tmp_path / "plan.json")
    assert plan.memory is not None and plan.memory.peak <= plan.memory.budget


def test_the_readme_names_each() -> None:
    assert all(sum(f"clusters/{path.name}" in line for line in LINES) == 1 for path in CLUSTERS)


def test_a_file_says_what_lines_say() -> None:
    """tests/examples/test_runs.py runs phases on ranks of their own."""
    by_file, by_lines = (shlex.split(line) for line in LINES if "off_policy" in line)
    layouts = tuple(b for a, b in pairwise(by_lines) if a == "--layout")
    cluster = by_lines[by_lines.index("--cluster") + 1]
    file = EXAMPLES.parent / by_file[by_file.index("--deploy") + 1]
    source = EXAMPLES / "off_policy.rl"
    plan = compile_file(source, Options(deploy=file)).plan
    assert plan == compile_file(source, Options(cluster=cluster, layouts=layouts)).plan
    assert len(plan.programs) == 2
