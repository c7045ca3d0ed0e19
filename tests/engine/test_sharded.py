"""Two ranks, FSDP2 over gloo, against one: the same rows give the same numbers, rollouts and checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.ops import GenerateOp
from rldsl.compiler.plan import ModelSpec
from tests.engine.tiny import CRITIC, Rows, load, perturb, train_op, weights
from tests.ranks import on_ranks

PROMPTS = 4
GENERATE = GenerateOp(id="g", model="actor", prompts="prompts", n=2, max_new_tokens=8, temperature=1.0, outputs={})
TRAIN = train_op(minibatch=2, epochs=2, micro_batch_tokens=24, skip_where_zero="advantages")


def trained(model: Model, rank: int, world: int) -> dict[str, object]:
    """Score, train and sample on the rows of the prompts of `rank`."""
    rows = Rows.make(prompts=PROMPTS)
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    # In the second minibatch rank 1 of 2 has nothing to do, and rank 0 little.
    advantages[rows.prompt_index == 3] = 0.0
    mine = (rows.prompt_index % world == rank).nonzero()[:, 0]
    tokens, mask = rows.tokens.select(mine), rows.response_mask.select(mine)
    batch = TrainBatch(
        tokens=tokens,
        response_mask=mask,
        args={"old_logp": rows.per_token().select(mine), "advantages": advantages[mine]},
        prompt_index=rows.prompt_index[mine],
        num_prompts=PROMPTS,
    )
    scored = model.logprob(tokens, mask, temperature=1.0)
    sampler = Sampler(model, seed=0)
    metrics = model.train(TRAIN, batch, policy_loss)
    # Scored, then a minibatch that only momentum moves, then one that must see the weights it moved.
    model.logprob(tokens, mask, temperature=1.0)
    late = torch.where(batch.prompt_index < TRAIN.minibatch, 0.0, 1.0)
    again = model.train(TRAIN, replace(batch, args={**batch.args, "advantages": late}), policy_loss)
    sampler.sync(model)
    prompts = [f"{i}+{i}=" for i in range(PROMPTS)][rank::world]
    samples = sampler.generate(prompts, torch.arange(rank, PROMPTS, world), GENERATE, step=0)
    return {
        "rows": mine,
        "scored": scored,
        "metrics": metrics,
        "again": again,
        "weights": weights(model),
        "samples": dict(zip(samples.ids.tolist(), samples.completions, strict=True)),
    }


def work(comm: Comm, folder: Path) -> dict[str, object]:
    start = ModelSpec(name="actor", kind="policy", source=str(folder / "start"))
    model = Model.load(start, comm=comm, seed=0)
    made = trained(model, comm.rank, comm.world_size)
    model.save(folder / "end")
    critic = Model.load(CRITIC, comm=comm, seed=0)
    made["critic"] = critic.value(Rows.make().tokens, Rows.make().response_mask).values
    return made


def test_two_ranks_equal_one(tmp_path: Path):
    perturb(load()).save(tmp_path / "start")
    found = on_ranks(work, tmp_path)
    want = trained(load(source=str(tmp_path / "start"), source_args={}), 0, 1)
    assert isinstance(want["scored"], Ragged)
    assert isinstance(want["metrics"], dict) and isinstance(want["again"], dict)
    assert isinstance(want["weights"], dict)
    loaded = load(source=str(tmp_path / "end"), source_args={}).weights()
    for made in found:
        assert torch.allclose(made["scored"].values, want["scored"].select(made["rows"]).values, atol=1e-5)
        for name in ("loss", "grad_norm", "kl", "clip_fraction"):
            assert made["metrics"][name] == pytest.approx(want["metrics"][name], rel=1e-5), name
            assert made["again"][name] == pytest.approx(want["again"][name], rel=1e-5), name
        assert made["metrics"]["tokens"] == want["metrics"]["tokens"]
        for name, weight in want["weights"].items():
            assert torch.allclose(made["weights"][name], weight, atol=1e-4), name
            assert torch.equal(made["weights"][name], loaded[name]), name
        assert not made["critic"].any()
    assert {**found[0]["samples"], **found[1]["samples"]} == want["samples"]
