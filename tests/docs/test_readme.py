"""Every command of the README runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = [b.strip().splitlines() for b in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)]
MAKE = [line for block in BLOCKS for line in block if line.startswith("make ")]
COMMANDS = [[line for line in block if not line.startswith("make ")] for block in BLOCKS]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.parametrize("block", [b for b in COMMANDS if b], ids=lambda b: b[-1])
def test_block(block: list[str], tmp_path: Path) -> None:
    """A block's lines one after the other, from a directory that is not the checkout's."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for line in block:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_demo_trains_a_model_that_transformers_loads(tmp_path: Path) -> None:
    """`make demo`, two steps of it. `make test` is what runs this test."""
    assert MAKE == ["make demo", "make test"]
    done = run(f"make demo STEPS=2 RUN={tmp_path}/demo", ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    left = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"plan.json", "metrics.jsonl", "reward.png", "checkpoint"} <= left
    assert len((tmp_path / "demo" / "metrics.jsonl").read_text().splitlines()) == 2

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "demo" / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "demo" / "checkpoint")
    ids = tokenizer("2 + 2 =", return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == model.config.vocab_size


def test_ci_calls_the_readme_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_files_named_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_no_line_is_left_out() -> None:
    assert sum(len(b) for b in COMMANDS) >= 10
