"""Transfers of weights in the background: they run beside, bring the same weights, and fail as in the foreground."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rldsl.backends import handlers, weights
from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.compiler.ops import InferOp, OffloadOp, OnloadOp, State, SyncKind, SyncWeightsOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError
from tests.compiler.programs import EXAMPLES
from tests.examples.models import Models, make
from tests.examples.runs import settings
from tests.ranks import on_ranks
from tests.runtime.differential import Way, alone
from tests.runtime.plans import write_task
from tests.runtime.pool import Ranks
from tests.runtime.test_background import same

OFF = frozenset({"overlap_transfers"})
PROGRAM = """
algorithm late {
  model actor     : policy = scratch(; alphabet = "0123456789=", hidden = 32, layers = 2, heads = 2)
  model critic    : value  = copy actor
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 2, max_new_tokens = 4, staleness = 1)
                 -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.05) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node learn     = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-2
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2, minibatch = 4
}
"""
LORA = PROGRAM.replace("heads = 2)\n  model critic", "heads = 2) with lora_rank = 2\n  model critic").replace(
    "critic    : value  = copy actor",
    'critic    : value  = scratch(; alphabet = "0123456789=", hidden = 32, layers = 2)',
)
APART = ("actor.train : fsdp() on 0..0", "actor.generate : hf() on 1..1")
# The first rank that generates trains as well, and holds a part of the weights that it gets.
LAPPED = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 1..2", "critic.train : fsdp() on 2..3")
HALVES = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3", "critic.train : fsdp() on 0..1")
# The 15 rows of the vocabulary do not divide over the ranks.
WAYS = (
    Way(ranks=2),
    Way(ranks=2, layouts=APART),
    Way(ranks=4),
    Way(ranks=4, layouts=LAPPED),
    Way(ranks=4, layouts=HALVES),
)
SYNC = "sync_weights:actor:1"


def made(folder: Path, disable: frozenset[str] = frozenset(), way: Way | None = None, text: str = PROGRAM) -> Plan:
    way = way or Way()
    folder.mkdir(exist_ok=True)
    write_task(folder, rows=32)
    (folder / "late.rl").write_text(text)
    return compile_file(folder / "late.rl", Options(disable=disable, layouts=way.layouts, world_size=way.ranks)).plan


def transfer_of(plan: Plan) -> SyncWeightsOp:
    (found,) = (op for op in plan.ops() if isinstance(op, SyncWeightsOp))
    return found


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Ranks]]:
    with Ranks(2) as two, Ranks(4) as four:
        yield {2: two, 4: four}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_results_are_the_same_on_ranks(tmp_path: Path, pools: dict[int, Ranks], way: Way) -> None:
    off, on = made(tmp_path, OFF, way), made(tmp_path, way=way)
    assert transfer_of(on).background and not transfer_of(off).background
    runs = [pools[way.ranks].run(plan, tmp_path, tmp_path / name) for name, plan in (("off", off), ("on", on))]
    assert same(*runs)


def test_results_are_the_same_on_one_rank_and_with_adapters(tmp_path: Path) -> None:
    for name, text in (("whole", PROGRAM), ("adapters", LORA)):
        off, on = made(tmp_path, OFF, text=text), made(tmp_path, text=text)
        assert transfer_of(on).sync is SyncKind.COPY and transfer_of(on).background
        assert same(alone(off, tmp_path, tmp_path / f"{name}-off"), alone(on, tmp_path, tmp_path / f"{name}-on"))


def test_the_engine_comes_and_goes_around_it(tmp_path: Path) -> None:
    """Under a budget in which the engine's weights leave the device after the wait."""
    made(
        tmp_path, text=PROGRAM.replace("hidden = 32", "hidden = 256").replace("n = 2,", "n = 2, max_prompt_tokens = 8,")
    )
    free = compile_file(tmp_path / "late.rl", Options(cluster="1 x cpu")).plan
    tight = next(plan for plan in smaller(tmp_path / "late.rl") if engine_moves(plan))
    order = [op.id for op in tight.ops()]
    (back, away) = engine_moves(tight)
    assert order.index(back) < order.index("rollout") < order.index(f"wait:{SYNC}") < order.index(away)
    (losses, weights), (expected, others) = (trained(plan, tmp_path) for plan in (tight, free))
    assert losses == expected and all(torch.equal(weights[name], others[name]) for name in others)


def trained(plan: Plan, folder: Path) -> tuple[list[float | None], dict[str, Tensor]]:
    """The losses of three steps, and the actor's weights behind them."""
    torch.set_num_threads(1)
    run = Executor(plan, Comm.alone(), steps=3, source_dir=folder, run_dir=folder / "run")
    losses = [run.run_step(step)["update/loss"] for step in range(3)]
    with run.runtime.residency.at_hand("actor"):
        weights = {name: w.clone() for name, w in run.runtime.models["actor"].weights().items()}
    run.runtime.close()
    return losses, weights


def smaller(source: Path) -> Iterator[Plan]:
    """Plans for ever smaller budgets, as long as there are any."""
    budget = 1 << 30
    while True:
        plan = compile_file(source, Options(cluster="1 x cpu", memory=budget)).plan
        yield plan
        assert plan.memory is not None
        budget = plan.memory.peak - (1 << 20)


def engine_moves(plan: Plan) -> list[str]:
    return [op.id for op in plan.ops() if isinstance(op, OnloadOp | OffloadOp) and op.state is State.ENGINE]


@pytest.mark.parametrize("layouts", [(), APART], ids=["together", "apart"])
def test_the_shipped_example(tmp_path: Path, pools: dict[int, Ranks], models: Models, layouts: tuple[str, ...]) -> None:
    """With log-probs of the old policy, which its one optimiser step a batch does without: beside them weights travel."""
    said = settings("off_policy", models)
    elision = frozenset({"elide_old_logp"})
    off, on = (
        compile_file(
            EXAMPLES / "off_policy.rl", Options(settings=said, disable=elision | more, layouts=layouts, world_size=2)
        ).plan
        for more in (OFF, frozenset())
    )
    assert transfer_of(on).background and not transfer_of(off).background
    runs = [pools[2].run(plan, EXAMPLES, tmp_path / name) for name, plan in (("off", off), ("on", on))]
    assert same(*runs)
    assert runs[0].lines[1]["update/rollout_gap"] > 0  # the second rollout is of weights that a step has changed since


# -- that it runs beside


def begun_beside(plan: Plan, comm: Comm, folder: Path, steps: int = 2) -> list[tuple[bool, str]]:
    """Of each step whether a forward had begun before the transfer ended, and the thread of the transfer.

    The transfer waits for the forward: in the foreground that would never begin.
    """
    begun, seen = threading.Event(), list[tuple[bool, str]]()
    usual, infer = handlers.transfer_later, handlers.HANDLERS[InferOp]

    def later(*args: Any) -> Callable[[], None]:
        work = usual(*args)
        begun.clear()

        def waiting() -> None:
            work()
            seen.append((begun.wait(30), threading.current_thread().name))

        return waiting

    def forward(rt: Any, op: Any) -> None:
        begun.set()
        infer(rt, op)

    run = Executor(plan, comm, steps=steps, source_dir=folder, run_dir=folder / "run")
    with (
        mock.patch.object(handlers, "transfer_later", later),
        mock.patch.dict(handlers.HANDLERS, {InferOp: forward}),
    ):
        run.run()
    return seen


BESIDE = [(True, "rldsl-transfer")] * 2


def test_it_runs_beside_forwards(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert begun_beside(made(tmp_path), Comm.alone(), tmp_path) == BESIDE


def two_ranks(comm: Comm, folder: Path) -> dict[str, Any]:
    """What is asked of two real ranks."""
    here = folder / str(comm.rank)
    found: dict[str, Any] = {"together": begun_beside(made(here, way=Way(ranks=2)), comm, here)}
    plan = made(here, way=Way(ranks=2, layouts=APART))
    found["apart"] = begun_beside(plan, comm, here) if comm.rank == 0 else ran(plan, comm, here)
    found["spoiled"] = spoiled(plan, comm, here)
    comm.barrier()
    found["alone"] = left_alone(plan, comm, here)
    return found


def ran(plan: Plan, comm: Comm, folder: Path) -> None:
    """A rank that only generates has no forward to wait for."""
    Executor(plan, comm, steps=2, source_dir=folder, run_dir=folder / "run").run()


def told(run: Executor) -> tuple[str, str, str]:
    """What it says when it fails, where the rank then is; and whether the other op beside has run."""
    with pytest.raises(DiagnosticError) as caught:
        run.run_step(0)
    (said,) = caught.value.diagnostics
    return said.code, said.message, run.runtime.comm.status.where()


def spoiled(plan: Plan, comm: Comm, folder: Path) -> tuple[str, str, str] | None:
    """The checksum of what arrives is another."""
    run = Executor(plan, comm, steps=2, source_dir=folder, run_dir=folder / "run")
    if comm.rank == 0:
        run.run_step(0)
        return None
    honest = weights.checksum
    with mock.patch.object(weights, "checksum", lambda weight: honest(weight) + 1):
        return told(run)


def left_alone(plan: Plan, comm: Comm, folder: Path) -> tuple[str, str, str] | None:
    """Rank 1 does not come to the transfer: the others wait no longer than they are told to."""
    comm.timeout_s, usual = 3.0, handlers.transfer_later
    comm._beside = None  # its communicators have the time limit with which they were made
    run = Executor(plan, comm, steps=2, source_dir=folder, run_dir=folder / "run")
    if comm.rank == 0:
        return told(run)

    def late(*args: Any) -> Callable[[], None]:
        usual(*args)
        return lambda: time.sleep(9)

    with mock.patch.object(handlers, "transfer_later", late):
        run.run_step(0)
    return None


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(two_ranks, tmp_path_factory.mktemp("two"), 2)


def test_it_runs_beside_forwards_on_two_ranks(ranks: list[Any]) -> None:
    assert [each["together"] for each in ranks] == [BESIDE, BESIDE]
    assert ranks[0]["apart"] == BESIDE


WAITING = f"op `wait:{SYNC}` of node `rollout`, step 1 of 2"


def test_a_wrong_checksum_comes_out_at_the_wait(ranks: list[Any]) -> None:
    assert ranks[0]["spoiled"] is None
    code, message, where = ranks[1]["spoiled"]
    assert code == "RL0712" and "`actor`" in message and "rank 1" in message and where == WAITING


def test_a_rank_that_does_not_come_is_named_with_the_transfer(ranks: list[Any]) -> None:
    code, message, where = ranks[0]["alone"]
    assert code == "RL0702" and where == WAITING
    assert message.endswith(f"for ranks 1, in op `{SYNC}` of node `rollout`, step 1 of 2") and "in broadcast" in message


def test_seconds_are_those_of_the_transfer_and_of_waiting(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    usual = handlers.transfer_later

    def slow(*args: Any) -> Callable[[], None]:
        work = usual(*args)
        return lambda: (time.sleep(0.5), work())[1]

    plan = made(tmp_path)
    with mock.patch.object(handlers, "transfer_later", slow):
        line = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run").run_step(0)
    transfer, waited, total = line[f"seconds/{SYNC}"], line[f"seconds/wait:{SYNC}"], line["seconds"]
    assert transfer is not None and waited is not None and total is not None
    assert 0.5 <= transfer <= total and 0 < waited < transfer + 1


def test_without_the_pass_nothing_waits(tmp_path: Path) -> None:
    plan = made(tmp_path, OFF | {"overlap_computes", "prefetch_loads"})
    assert not any(isinstance(op, WaitOp) for op in plan.ops())
