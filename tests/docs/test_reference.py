"""Every program of the language reference compiles."""

import re
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import compile_file

REFERENCE = (Path(__file__).parents[2] / "grammar" / "reference.md").read_text()
PROGRAMS = re.findall(r"```rl\n(.*?)```", REFERENCE, re.DOTALL)
MINE = "def brevity(completions: str, answers: str, *, weight: float = 0.1) -> float:\n    return 0.0\n"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: re.search(r"algorithm (\w+)", p)[1])
def test_program(program: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "program.rl").write_text(program)
    compiled = compile_file(tmp_path / "program.rl")
    assert compiled.plan.programs and not compiled.warnings


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 4
