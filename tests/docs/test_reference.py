"""Every program of the language reference compiles."""

import re
from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Source

REFERENCE = (Path(__file__).parents[2] / "grammar" / "reference.md").read_text()
PROGRAMS = re.findall(r"```rl\n(.*?)```", REFERENCE, re.DOTALL)
MINE = """\
def brevity(completions: str, answers: str, *, weight: float = 0.1) -> float:
    return 0.0


def echo(completions: str) -> tuple[str, bool]:
    return completions, not completions
"""


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: re.search(r"algorithm (\w+)", p)[1])
def test_program(program: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "smallest.rl").write_text(PROGRAMS[0])
    (tmp_path / "program.rl").write_text(program)
    compiled = compile_file(tmp_path / "program.rl")
    assert compiled.plan.programs and not compiled.warnings


def test_the_python_program_is_the_first_ones_twin(tmp_path: Path) -> None:
    (python,) = re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL)
    (tmp_path / "smallest.py").write_text(python)
    (tmp_path / "smallest.rl").write_text(PROGRAMS[0])
    first, second = (compile_file(tmp_path / f"smallest{s}").plan for s in (".rl", ".py"))
    assert msgspec.structs.replace(first, source=Source()) == msgspec.structs.replace(second, source=Source())


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 4
