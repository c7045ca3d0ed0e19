"""docs/paper-table.md is what its script prints."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/paper_table.py."""
    spec = importlib.util.spec_from_file_location("paper_table", ROOT / "bench" / "paper_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["paper_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("algorithm", "size", "ranks", "context"), [("ppo", "7B", 8, 8), ("grpo", "72B", 64, 16), ("grpo", "32B", 8, 64)]
)
def test_the_table_is_true(
    bench: ModuleType, tmp_path: Path, algorithm: str, size: str, ranks: int, context: int
) -> None:
    case = bench.Case(algorithm=algorithm, size=size, ranks=ranks, context=context)
    page = (ROOT / "docs" / "paper-table.md").read_text(encoding="utf-8")
    assert bench.row(bench.solved(case, tmp_path)) in page.splitlines()


def test_the_page_has_the_scripts_words(bench: ModuleType) -> None:
    page = (ROOT / "docs" / "paper-table.md").read_text(encoding="utf-8")
    assert page.startswith(bench.PAGE)
    assert page.count("\n| ") == 1 + len(list(bench.cases(quick=False)))


def test_residency_is_what_makes_some_plan_of_72b_fit(bench: ModuleType, tmp_path: Path) -> None:
    case = bench.Case(algorithm="grpo", size="72B", ranks=64, context=16)
    assert bench.shows_residency([bench.solved(case, tmp_path)])
    assert not bench.shows_residency([bench.Line(case=case, layout="fsdp")])
