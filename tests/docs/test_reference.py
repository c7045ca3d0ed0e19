"""Every program of the language reference compiles."""

import re
from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import Source

REFERENCE = (Path(__file__).parents[2] / "grammar" / "reference.md").read_text()
PROGRAMS = re.findall(r"```rl\n(.*?)```", REFERENCE, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL)
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
    python = PYTHON[-1]
    (tmp_path / "smallest.py").write_text(python)
    (tmp_path / "smallest.rl").write_text(PROGRAMS[0])
    first, second = (compile_file(tmp_path / f"smallest{s}").plan for s in (".rl", ".py"))
    assert msgspec.structs.replace(first, source=Source()) == msgspec.structs.replace(second, source=Source())


def test_the_functions_fit_a_program(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PYTHON[0])
    program = next(p for p in PROGRAMS if "algorithm resampled" in p)
    program = program.replace("has_spread(score)", "long_enough(score, response_mask; least = 1)")
    program = program.replace("group_advantage(score)", "centred(score)")
    program = program.replace(
        "policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp)",
        "plain_loss(tokens, response_mask, advantages)",
    )
    program = program.replace("response_mask, rollout_logp, score where", "response_mask, score where")
    (tmp_path / "program.rl").write_text(f'use "mine.py"\n{program}')
    compiled = compile_file(tmp_path / "program.rl")
    used = {f.name for f in compiled.plan.functions if f.file == "mine.py"}
    assert used == {"long_enough", "centred", "plain_loss"} and not compiled.warnings


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 4
