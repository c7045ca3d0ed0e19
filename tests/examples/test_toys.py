"""The toys run, and every command of examples/README.md names what is there."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from rldsl.backends import local
from rldsl.compiler.pipeline import Options, compile_file
from tests.compiler.programs import ALGORITHMS, EXAMPLES
from tests.examples.runs import logged

TOYS = sorted(p.stem for p in (EXAMPLES / "toy").glob("*.rl"))
README = (EXAMPLES / "README.md").read_text()
COMMANDS = re.findall(r"`(rldsl run [^`]*)`", README)


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_runs(tmp_path: Path, name: str) -> None:
    plan = compile_file(EXAMPLES / "toy" / f"{name}.rl").plan
    local.run(plan, steps=2, world_size=1, run_dir=tmp_path, observer=None, source_dir=EXAMPLES / "toy", timeout_s=60.0)
    lines = logged(tmp_path)
    assert all(0 < line["score"] < 0.5 for line in lines), "it has all yet to learn"
    assert any(value for line in lines for key, value in line.items() if key.endswith("/grad_norm"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_would_run(command: str) -> None:
    _, _, file, *options = shlex.split(command)
    settings = tuple(b for a, b in pairwise(options) if a == "--set")
    assert set(options[::2]) <= {"--steps", "--set"} and "--steps" in options
    assert compile_file(EXAMPLES.parent / file, Options(settings=settings)).plan.programs


def test_the_readme_names_every_example() -> None:
    named = sorted(shlex.split(command)[2] for command in COMMANDS)
    assert named == sorted(p.relative_to(EXAMPLES.parent).as_posix() for p in ALGORITHMS)
    papers = re.findall(r"\[(\S+)\]\(https://arxiv.org/abs/(\S+)\)", README)
    assert all(shown == linked for shown, linked in papers)
    for example, paper in re.findall(r"^\| `(\w+)` .*\[(\S+)\]", README, re.MULTILINE):
        assert paper in (EXAMPLES / f"{example}.rl").read_text(), "the example says so itself"
