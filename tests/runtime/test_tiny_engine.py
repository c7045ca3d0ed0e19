"""The tiny engine is a real one: it samples, scores and learns, and threads run it as one rank does."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.executor import Executor
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import ModelSpec
from tests.runtime.differential import Wanted, Way, alone, difference
from tests.runtime.pool import RankError
from tests.runtime.random_programs import Maker, write
from tests.runtime.threads import LeftError, ThreadRanks, World
from tests.runtime.tiny_engine import DECAY, TINY, TinyModel

TOY = Path(__file__).parents[2] / "examples" / "toy"


def model(**settings: Any) -> TinyModel:
    spec = ModelSpec(name="actor", kind="policy", source="scratch", source_args={"alphabet": "01"}, **settings)
    return TinyModel.load(spec, comm=Comm.alone(), seed=3)


def test_log_probs_are_of_all_that_came_before() -> None:
    """As worked out by hand, row by row; rows that share a prefix do not see each other."""
    policy = model()
    rows = [[1, 4, 5, 2], [1, 4, 4], [5, 2]]
    masks = [[False, False, True, True], [False, True, True], [False, True]]
    tokens = Ragged.of([torch.tensor(r) for r in rows])
    found = policy.logprob(tokens, Ragged.of([torch.tensor(m) for m in masks]), temperature=0.5).rows()
    weights = policy.weights()
    for row, mask, logps in zip(rows, masks, found, strict=True):
        state = torch.zeros(weights["embed"].shape[1])
        for i, token in enumerate(row):
            if mask[i]:
                want = (torch.tanh(state) @ weights["own"].t() / 0.5).log_softmax(-1)[token]
                assert float(logps[i]) == pytest.approx(float(want), abs=1e-5)
            state = DECAY * state + weights["embed"][token]


def test_the_sampler_goes_on_from_the_same_states() -> None:
    scorer = model().scorer
    cache = scorer.prefill([np.array([1, 4]), np.array([5])])
    states = scorer.body(torch.tensor([[5], [2]]), torch.zeros(2, 1), torch.zeros(2), cache)[:, 0]
    whole = scorer.prefill([np.array([1, 4, 5]), np.array([5, 2])])
    assert torch.allclose(states, torch.tanh(whole.sums))


def test_adapters_alone_learn() -> None:
    policy = model(lora_rank=2, lora_alpha=4.0)
    assert policy.optimizer is not None
    assert set(policy.optimizer.parameters) == {"lora_up", "lora_down"}
    before = policy.weights()["embed"]
    with torch.no_grad():
        policy.scorer.lora_up += 1.0
    assert not torch.allclose(policy.weights()["embed"], before)


def test_it_learns(tmp_path: Path) -> None:
    """The toy's reward rises: what is measured with this engine is training."""
    plan = compile_file(TOY / "grpo.rl", Options(settings=("lr=0.05",))).plan
    executor = Executor(plan, Comm.alone(), steps=30, source_dir=TOY, run_dir=tmp_path, engine=TINY)
    rewards = [executor.run_step(step)["score"] or 0.0 for step in range(30)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5


@pytest.mark.parametrize("seed", [1, 2, 7, 12, 17])
def test_threads_give_what_the_reference_gives(tmp_path: Path, seed: int) -> None:
    source = write(tmp_path, Maker(seed, fits=24).program())
    want = Wanted.of(source, TINY)
    layouts = ("actor.generate : hf(dp = 1)", "rival.generate : hf(dp = 2)")
    apart = ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3", "rival.generate : hf() on 1..2")
    for way in (Way(), Way(ranks=3), Way(ranks=8), Way(ranks=4, layouts=layouts), Way(ranks=4, layouts=apart)):
        plan = compile_file(source, way.options()).plan
        run = tmp_path / str(way.ranks)
        threads = ThreadRanks(way.ranks, TINY)
        got = alone(plan, tmp_path, run, TINY) if way.ranks == 1 else threads.run(plan, tmp_path, run)
        found = difference(got, want, plan)
        assert not found.bad, f"{way}: {found}"


def test_a_rank_that_fails_holds_up_nobody(tmp_path: Path) -> None:
    source = write(tmp_path, Maker(1, fits=24).program())
    plan = compile_file(source).plan
    (tmp_path / "rows.jsonl").write_text('{"prompts": "7=", "answers": "1"}\n' * 24)  # 7 is not in the alphabet
    began = time.monotonic()
    with pytest.raises(RankError, match="RL0605"):
        ThreadRanks(4, TINY).run(plan, tmp_path, tmp_path / "run")
    assert time.monotonic() - began < 30


def test_ranks_in_different_collectives_are_told() -> None:
    world = World(2)
    comms = [world.comm(rank) for rank in range(2)]
    errors: list[BaseException] = []

    def enter(rank: int) -> None:
        with world.turn:
            try:
                (comms[rank].all_reduce if rank else comms[rank].all_reduce_max)(torch.zeros(1))
            except (AssertionError, LeftError) as error:
                errors.append(error)
                world.fail()

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(e) for e in errors] == [AssertionError, LeftError]
    assert "different collectives: ['max', 'sum']" in str(errors[0])
