"""Numbers of ranks that run different programs: brought together without anybody waiting, and in one order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch._C._distributed_c10d import HashStore, Store

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.backends.ledger import Ledger
from rldsl.backends.metrics import StepMetrics
from rldsl.backends.outputs import clear_outputs
from rldsl.backends.runtime import check_vocabularies
from rldsl.backends.status import Status
from rldsl.compiler.ops import MetricOp, OutputOp, Reduction
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Group, Plan, Program
from rldsl.diagnostics import DiagnosticError
from tests.runtime.plans import only_compute, user_function
from tests.runtime.threads import World
from tests.runtime.tiny_engine import TINY, Characters

PROGRAM = """algorithm apart {
  model actor : policy = scratch(; alphabet = "0123=")
  model judge : policy = frozen scratch(; alphabet = "0123=", seed = 3)
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 4
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 3)
                 -> tokens, response_mask, rollout_logp, completions
  node judged    = judge.logprob(tokens, response_mask) -> ref_logp
  node reward    = compute exact_match(completions, answers) -> score
  node advantage = compute group_advantage(score; group = 2) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp, ref_logp; kl_coef = 0.1) with lr = 0.1
  metric spread  = std(score)
  output said    = prompts, completions
}
"""
LAYOUTS = ("actor.train : fsdp() on 1..1", "actor.generate : hf() on 0..0", "judge.infer : fsdp() on 2..2")


@pytest.fixture
def apart(tmp_path: Path) -> Plan:
    """Rank 0 samples, rank 1 trains, rank 2 scores; the file has fewer rows than a batch."""
    (tmp_path / "rows.jsonl").write_text('{"prompts": "1=", "answers": "1"}\n{"prompts": "2=", "answers": "2"}\n')
    source = tmp_path / "apart.rl"
    source.write_text(PROGRAM)
    return compile_file(source, Options(layouts=LAYOUTS, world_size=3)).plan


def in_threads(size: int, work: Callable[[Comm], Any]) -> list[Any]:
    """What `work` returns on each rank; a collective that one leaves out is an error of all."""
    world = World(size)
    found: dict[int, Any] = {}

    def run(rank: int) -> None:
        with world.turn:
            try:
                found[rank] = work(world.comm(rank))
            except BaseException as error:
                found[rank] = error
                world.fail()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(size)]


def test_rank_0_tells_what_others_know(apart: Plan, tmp_path: Path) -> None:
    def work(comm: Comm) -> tuple[list[str], list[dict[str, Any]]]:
        run_dir = tmp_path / "run"
        made = Executor(apart, comm, steps=2, source_dir=tmp_path, run_dir=run_dir, engine=TINY)
        lines: list[dict[str, Any]] = []
        with made.delivering(lambda line: lines.append(dict(line))):
            for step in range(2):
                assert made.run_step(step) == {}
            comm.barrier()
        return [w.code for w in made.warnings], lines

    found = in_threads(3, work)
    assert [lines for _, lines in found[1:]] == [[], []]
    assert [codes for codes, _ in found] == [["RL0611"]] * 3, "only rank 0 loads, once for all"
    first, second = found[0][1]
    assert list(first) == list(second) and (first["step"], second["step"]) == (0, 1)
    assert first["prompts"] == 4 and first["samples"] == 8 and first["update/steps"] == 1.0
    assert first["spread"] is not None and first["seconds/judged"] > 0 and first["seconds/update"] > 0
    assert {p.name for p in (tmp_path / "run" / "outputs").iterdir()} == {"said-1.jsonl"}


def test_vocabularies_of_models_on_different_ranks(apart: Plan) -> None:
    def checked(alphabet: str) -> list[Any]:
        have: list[Any] = [
            {"actor": Characters("0123=")},
            {"actor": Characters("0123=")},
            {"judge": Characters(alphabet)},
        ]
        return in_threads(3, lambda comm: check_vocabularies(apart, have[comm.rank], comm))

    assert checked("0123=") == [None] * 3
    for error in checked("012="):
        assert isinstance(error, DiagnosticError) and error.diagnostics[0].code == "RL0610"


def tiny(folder: Path) -> Plan:
    return only_compute(folder, user_function(folder, "def user(prompts):\n    return [1.0] * len(prompts)\n"))


def rank_of(rank: int, store: Store, world_size: int = 2) -> Comm:
    status = Status(rank=rank, world_size=world_size, op="judge", step=0)
    return Comm(
        rank=rank, world_size=world_size, device=torch.device("cpu"), status=status, group=None, store=store, timeout_s=0.3
    )  # fmt: skip


def ledgers(folder: Path) -> list[tuple[Ledger, StepMetrics]]:
    store, plan = HashStore(), tiny(folder)
    comms = [rank_of(rank, store) for rank in range(2)]
    metrics = [StepMetrics(plan, comm) for comm in comms]
    return [(Ledger(m, comm), m) for m, comm in zip(metrics, comms, strict=True)]


def test_nobody_waits_and_lines_come_in_order(tmp_path: Path) -> None:
    (zero, mine), (one, theirs) = ledgers(tmp_path)
    lines: list[float | None] = []
    for step in range(3):
        theirs.count("samples", 10**step)
        one.post(theirs.part())
    with zero.delivering(lambda line: lines.append(line["samples"])):
        for step in range(2):
            zero.post(mine.part())
            deadline = time.monotonic() + 5
            while len(lines) <= step and time.monotonic() < deadline:
                time.sleep(0.01)
            assert lines == [1, 11][: step + 1], "while the run goes on"
        zero.post(mine.part())
    assert lines == [1, 11, 111]


def test_an_interrupted_run_has_the_steps_that_all_have_ended(tmp_path: Path) -> None:
    (zero, mine), (one, theirs) = ledgers(tmp_path)
    lines: list[float | None] = []
    with pytest.raises(KeyboardInterrupt), zero.delivering(lambda line: lines.append(line["step"])):
        for _ in range(3):
            zero.post(mine.part())
        one.post(theirs.part())
        one.post(theirs.part())
        raise KeyboardInterrupt
    assert lines == [0, 1]


def test_a_rank_that_never_ends_its_step_is_named(tmp_path: Path) -> None:
    (zero, mine), _ = ledgers(tmp_path)
    with pytest.raises(DiagnosticError) as caught, zero.delivering(lambda line: None):
        zero.post(mine.part())
    found = caught.value.diagnostics[0]
    assert found.code == "RL0702" and "for ranks 1, in op `judge`" in found.message


def test_what_a_line_cannot_be_written_to_ends_the_run(tmp_path: Path) -> None:
    (zero, mine), (one, theirs) = ledgers(tmp_path)

    def full(_line: object) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), zero.delivering(full):
        one.post(theirs.part())
        zero.post(mine.part())


def test_copies_of_rows_count_once(tmp_path: Path) -> None:
    plan = tiny(tmp_path)
    twins = msgspec.structs.replace(plan, groups=(*plan.groups, Group(name="twins", tp=2)), divides=2)
    op = MetricOp(id="m", name="m", group="twins", reduction=Reduction.SUM, field="score")
    twins = msgspec.structs.replace(twins, programs=(Program(ops=(*plan.ops(), op)),))
    parts = []
    for rank in range(2):
        metrics = StepMetrics(twins, rank_of(rank, HashStore()))
        with metrics.timing(op):
            metrics.add_metric(op, torch.tensor([2.0, 3.0]))
            metrics.count("samples", 2)
        parts.append(metrics.part())
    line = metrics.line(0, parts)
    assert (line["m"], line["samples"]) == (5.0, 2)


def test_files_of_ranks_that_put_out_nothing_go(tmp_path: Path) -> None:
    plan = tiny(tmp_path)
    op = OutputOp(id="o", name="said", group="last", fields=("prompts",))
    groups = (*plan.groups, Group(name="last", ranks=((1, 2),)))
    plan = msgspec.structs.replace(plan, groups=groups, programs=(Program(ops=(*plan.ops(), op)),))
    folder = tmp_path / "run" / "outputs"
    folder.mkdir(parents=True)
    for rank in range(3):
        (folder / f"said-{rank}.jsonl").write_text("{}\n")
    clear_outputs(tmp_path / "run", plan, 2)
    assert [p.name for p in folder.iterdir()] == ["said-1.jsonl"]
