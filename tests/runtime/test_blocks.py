"""Loops, validation, metrics and outputs at run time: what runs when, and the same on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.backends.keys import mean_fields, reward_key
from rldsl.diagnostics import DiagnosticError
from tests.runtime.blocks import EVERY, ROUNDS, TEST, blocks
from tests.runtime.plans import BATCH, GROUP
from tests.runtime.test_executor import Recorder, lines, run, weights

STEPS = 4


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder = tmp_path_factory.mktemp("base")
    return folder, run("local", 1, blocks(folder), folder, "run", steps=STEPS)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows that all ranks put out, in the order of one rank."""
    files = sorted((folder / "outputs").glob(f"{name}-*.jsonl"))
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(found, key=lambda row: (row["step"], row["id"]))


def test_what_runs_when(base: tuple[Path, Recorder]) -> None:
    _, seen = base
    begins = [i for i, op in enumerate(seen.ops) if op == "sync"] + [len(seen.ops)]
    for step, line in enumerate(seen.steps):
        ops = seen.ops[begins[step] : begins[step + 1]]
        due = step % EVERY == 0 or step == STEPS - 1
        assert ("test.rollout" in ops) == due == ("test.samples" in ops)
        assert (line["test.score"] is not None) == due == (line["test.accuracy"] is not None)
        assert line["test.accuracy"] == line["test.score"] and (line["test.spread"] is None) != due
        assert line["seconds/test.rollout"] == 0.0 or due
        rounds = int(line["keep/rounds"] or 0)
        assert [f"keep.{k}.rollout" in ops for k in range(1, ROUNDS + 1)] == [k <= rounds for k in range(1, ROUNDS + 1)]
        assert rounds == ROUNDS or line["keep/kept"] >= BATCH
        assert line["prompts"] == rounds * BATCH + due * TEST
        assert line["samples"] == rounds * BATCH * GROUP + 2 * due * TEST
        assert line["keep.share"] == pytest.approx(line["keep/kept"] / (rounds * BATCH))
    assert {int(s["keep/rounds"] or 0) for s in seen.steps} != {ROUNDS}, "the loop never ended early"


def test_what_is_put_out(base: tuple[Path, Recorder]) -> None:
    folder, seen = base
    assert {p.name for p in (folder / "run" / "outputs").iterdir()} == {"kept-0.jsonl", "test.samples-0.jsonl"}
    tests = rows(folder / "run", "test.samples")
    assert [r["step"] for r in tests] == [step for step in (0, 2, 3) for _ in range(TEST)]
    # A prompt with one sample has its id; every validation reads the same prompts.
    assert [r["id"] for r in tests] == [step * TEST + i for step in (0, 2, 3) for i in range(TEST)]
    assert (
        [r["prompts"] for r in tests[:TEST]] == [f"{i}=" for i in range(TEST)] == [r["prompts"] for r in tests[-TEST:]]
    )
    names = ["step", "id", "prompts", "tokens", "response_mask", "completions", "done", "score", "echoed"]
    for row in tests:
        assert list(row) == names and isinstance(row["done"], bool) and isinstance(row["score"], float)
        assert len(row["tokens"]) == len(row["response_mask"]) and set(row["response_mask"]) <= {True, False}
        # The last response's text, also in a round that a row that is done sits out.
        assert len(row["completions"]) <= sum(row["response_mask"])
    for step, line in enumerate(seen.steps):
        kept = [r for r in rows(folder / "run", "kept") if r["step"] == step]
        count = min(BATCH, int(line["keep/kept"] or 0))
        assert [r["id"] for r in kept] == [step * BATCH * GROUP + i for i in range(count * GROUP)]
        groups = [kept[i : i + GROUP] for i in range(0, len(kept), GROUP)]
        assert all(len({r["prompts"] for r in group}) == 1 < len({r["score"] for r in group}) for group in groups)
        mean = sum(r["score"] for r in kept) / len(kept) if kept else None
        assert line["score"] == (mean if mean is None else pytest.approx(mean, rel=1e-6))


@pytest.mark.parametrize(("ranks", "generating"), [(2, None), (4, 2)])
def test_any_ranks_give_the_same(
    base: tuple[Path, Recorder], tmp_path: Path, ranks: int, generating: int | None
) -> None:
    plan = blocks(tmp_path, generate_on=generating, world=ranks if generating else None)
    run("torchrun", ranks, plan, tmp_path, "run", steps=STEPS)
    for ours, theirs in zip(lines(tmp_path / "run"), lines(base[0] / "run"), strict=True):
        for name in (n for n in theirs if not n.startswith(("seconds", "tokens_per_s", "update/seconds"))):
            assert ours[name] == (None if theirs[name] is None else pytest.approx(theirs[name], rel=1e-4, abs=1e-8)), (
                name
            )
    for name in ("kept", "test.samples"):
        assert len(list((tmp_path / "run" / "outputs").glob(f"{name}-*.jsonl"))) == ranks
        got, want = rows(tmp_path / "run", name), rows(base[0] / "run", name)
        assert got == [{**w, "score": pytest.approx(w["score"], rel=1e-6)} for w in want]
    mine, other = weights(tmp_path / "run"), weights(base[0] / "run")
    assert max(float((mine[n] - other[n]).norm() / other[n].norm()) for n in other) < 1e-4


def test_nothing_is_kept(tmp_path: Path) -> None:
    """No row on any rank: functions and outputs have nothing to do, no optimiser step is taken, the step ends well."""
    made = Executor(
        blocks(tmp_path, useful="none_is"), Comm.alone(), steps=2, source_dir=tmp_path, run_dir=tmp_path / "run"
    )
    before = {n: w.clone() for n, w in made.runtime.models["actor"].weights().items()}
    line = made.run_step(0)
    assert (line["keep/kept"], line["keep/rounds"], line["score"]) == (0.0, ROUNDS, None)
    after = made.runtime.models["actor"].weights()
    assert all(bool((before[n] == after[n]).all()) for n in before)
    assert rows(tmp_path / "run", "kept") == []


def test_few_are_kept_on_two_ranks(tmp_path: Path) -> None:
    """None at all on both ranks."""
    run("torchrun", 2, blocks(tmp_path, useful="none_is"), tmp_path, "run", steps=2)
    assert [line["keep/kept"] for line in lines(tmp_path / "run")] == [0.0, 0.0]


def test_rollouts_of_each_staleness_have_an_engine_of_their_own(tmp_path: Path) -> None:
    made = Executor(blocks(tmp_path), Comm.alone(), steps=2, source_dir=tmp_path, run_dir=tmp_path / "run")
    assert list(made.runtime.samplers) == [("actor", 0), ("actor", 1)]
    old, new = made.runtime.samplers["actor", 1], made.runtime.samplers["actor", 0]
    begun = {n: p.detach().clone() for n, p in new.scorer.named_parameters()}
    made.run_step(0)
    # The next step's rollout still has the weights that this one began with.
    assert all(bool((p == begun[n]).all()) for n, p in old.scorer.named_parameters())
    assert not all(bool((p == begun[n]).all()) for n, p in new.scorer.named_parameters())


def test_which_means_are_logged(tmp_path: Path) -> None:
    plan = blocks(tmp_path)
    assert mean_fields(plan) == ("test.score", "score", "advantages")
    assert reward_key(plan) == "score", "the validation's is not there in each step"


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "outputs").write_text("no folder")
    with pytest.raises(DiagnosticError, match="RL0101"):
        run("local", 1, blocks(tmp_path), tmp_path, "run", steps=1)


def test_an_output_begins_anew_with_the_run(tmp_path: Path) -> None:
    left = [tmp_path / "run" / "outputs" / f"{name}.jsonl" for name in ("test.samples-3", "other-0", "notes")]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.write_text("{}\n")
    for _ in range(2):
        run("local", 1, blocks(tmp_path), tmp_path, "run", steps=1)
        assert {r["step"] for r in rows(tmp_path / "run", "test.samples")} == {0}
        assert len(rows(tmp_path / "run", "test.samples")) == TEST
    assert [path.exists() for path in left] == [False, False, True], "what no run of ours put out stays"
