"""Random programs: the optimised plan, run by the executor, gives what the graph as written gives.

`bench/random_programs.py` tries as many as asked for, on up to 8 ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import compile_file
from rldsl.diagnostics import DiagnosticError
from tests.runtime.differential import ON_ONE, Run, Wanted, Way, alone, compare_runs, difference
from tests.runtime.pool import Ranks
from tests.runtime.random_programs import Maker, write

ON_TWO = (
    Way(ranks=2),
    Way(ranks=2, layouts=("actor.generate : hf(dp = 1)",)),
    Way(ranks=2, layouts=("actor.train : fsdp() on 0..0", "actor.generate : hf() on 1..1")),
)


def correct(seeds: range, folder: Path) -> Iterator[tuple[int, Path]]:
    """Programs that compile; a few have no training left when their conditions are known."""
    for seed in seeds:
        source = write(folder / str(seed), Maker(seed).program())
        try:
            compile_file(source)
        except DiagnosticError:
            continue
        yield seed, source


def check(seed: int, source: Path, way: Way, run: Run, want: Wanted) -> None:
    plan = compile_file(source, way.options()).plan
    got = run(plan, source.parent, source.parent / "run")
    found = difference(got, want, plan)
    assert not found.bad, f"seed {seed}, {way}: {found}"


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_on_one_rank(tmp_path: Path, first: int) -> None:
    """As compiled usually, and without one of the passes that may be left out, or all."""
    for seed, source in correct(range(first, first + 5), tmp_path):
        want = Wanted.of(source)
        for way in (Way(), ON_ONE[1 + seed % (len(ON_ONE) - 1)]):
            check(seed, source, way, alone, want)


def test_on_two_ranks(tmp_path: Path) -> None:
    """Training on two, rollouts on two or on one; and each on one of its own."""
    with Ranks(2) as ranks:
        for seed, source in correct(range(100, 103), tmp_path):
            want = Wanted.of(source)
            for way in ON_TWO:
                check(seed, source, way, ranks.run, want)


def test_a_difference_is_found(tmp_path: Path) -> None:
    """What the comparison would not notice is no comparison."""
    source = write(tmp_path, Maker(3).program())
    plan = compile_file(source).plan
    got, want = alone(plan, tmp_path, tmp_path / "run"), Wanted.of(source)
    assert not difference(got, want, plan).bad
    compare_runs(got, got, found := difference(got, want, plan))
    assert not found.bad
    name = next(n for n in want.steps[1].metrics if n.endswith("/loss"))
    got.lines[1][name] += 1e-4
    assert difference(got, want, plan).where == f"step 1 {name}"
    del got.weights["actor"][next(iter(got.weights["actor"]))]
    assert difference(got, want, plan).wrong
