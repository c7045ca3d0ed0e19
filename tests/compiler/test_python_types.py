"""To a type checker a typical algorithm is clean, and a slip is none."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import rldsl.functions
from rldsl.compiler.signature import library_names, library_signature
from tests.compiler.python_programs import SMALL, write_everything

ROOT = Path(__file__).parents[2]
MARKED = """

@rl.function
def same(completions: str, answers: str, *, weight: float = 1.0) -> float:
    return weight * (completions == answers)


@rl.function
def own_loss(logp: rl.PerToken, response_mask: rl.Mask, advantages: rl.PerSample) -> rl.TokenLoss:
    return rl.TokenLoss(-logp * advantages[:, None])


@rl.node
def judged(completions: rl.Completions, answers: rl.Answers) -> Annotated[rl.PerSample, "verdict"]:
    return same(completions, answers, weight=lr)


@rl.node(type=rl.MODEL_TRAIN)
def again(tokens: rl.TokenIds, response_mask: rl.Mask, verdict: Annotated[rl.PerSample, "verdict"]) -> rl.Metrics:
    loss = own_loss(tokens, response_mask, verdict)
    return actor.train(loss, lr=lr / 2)


one: float = same("a", "b")
"""


def mypy(*files: Path) -> str:
    environment = {**os.environ, "MYPYPATH": f"{ROOT}:{files[0].parent}"}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *map(str, files)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment).stdout


def test_clean(tmp_path: Path) -> None:
    path = write_everything(tmp_path).with_suffix(".py")
    small = tmp_path / "small.py"
    small.write_text(f"from typing import Annotated\n\n{SMALL}{MARKED}")
    shown = mypy(path, tmp_path / "mine.py", small, *sorted((ROOT / "examples").glob("*.py")))
    assert shown.startswith("Success"), shown


def test_slips(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(
        SMALL.replace("n=2", "m=2").replace("max_new_tokens=4", "max_new_tokens='4'").replace("gt=0", "gt='0'")
        + "critic = rl.value('critic', shraed=actor)\njudge = rl.reward('judge')\njudge.train\njudge.scor\n"
        + "rl.metric('m', median='score')\nrl.param(1, unit='prompt')\n"
    )
    said = re.findall(r"small.py:(\d+): error: .*\[([\w-]+)\]", mypy(path))
    lines = path.read_text().splitlines()
    assert {lines[int(line) - 1].strip() for line, _ in said} == {
        "lr = rl.param(0.01, gt='0')",
        "return actor.generate(prompts, m=2, max_new_tokens='4')",
        "critic = rl.value('critic', shraed=actor)",
        "judge.scor",
        "rl.metric('m', median='score')",
        "rl.param(1, unit='prompt')",
    }, said


def test_losses_are_declared() -> None:
    """Their result is assigned, so a type checker must know what it is."""
    tree = ast.parse(Path(rldsl.functions.__file__).read_text())
    (library,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Library"]
    declared = {
        n.target.id for n in ast.walk(library) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    losses = {n for n in library_names() if (s := library_signature(n)) is not None and s.is_loss}
    assert declared == losses, "declare it in `rldsl.functions.Library`"
