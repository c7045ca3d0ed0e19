"""The runs that tests of examples look at, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.examples.models import Models, make
from tests.examples.runs import Run, executed, on_each_rank, on_ranks_of_their_own
from tests.ranks import on_ranks

Runs = Callable[..., Run]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def run(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run of an example, by its name and settings beside the usual."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def once(name: str, more: tuple[str, ...]) -> Run:
        return executed(name, models, folder / " ".join((name, *more)), more)

    return lambda name, more=(): once(name, more)


@pytest.fixture(scope="session")
def two_ranks(models: Models) -> Path:
    """The folder with the runs of all examples on two ranks, below `runs` and `apart2`: one pair of processes for all."""
    folder = models.policy.parent
    on_ranks(on_each_rank, folder)
    return folder


@pytest.fixture(scope="session")
def more_ranks(models: Models) -> Callable[[int], Path]:
    """The folder with runs of some examples on so many ranks, below `apart3` or `apart4`."""
    folder = models.policy.parent

    @cache
    def once(ranks: int) -> Path:
        on_ranks(on_ranks_of_their_own, folder, ranks)
        return folder

    return once
