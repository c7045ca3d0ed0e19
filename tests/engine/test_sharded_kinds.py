"""Two ranks against one: adapters, shared trunks, reward models, and rows that are not equally many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rldsl.algos.losses import policy_loss, value_loss
from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.lora import is_adapter
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.ops import Aggregate, Arg, GenerateOp
from tests.engine.tiny import CRITIC, SCRATCH, Rows, changed, train_op, weights
from tests.ranks import on_ranks

PROMPTS = 4
GENERATE = GenerateOp(id="g", model="actor", prompts="prompts", n=2, max_new_tokens=8, temperature=1.0, outputs={})
TRAIN = train_op(minibatch=2, epochs=2, lr=1e-2, micro_batch_tokens=24, skip_where_zero="advantages")
VALUE = train_op(
    model="critic",
    loss="value_loss",
    params={},
    lr=1e-2,
    minibatch=2,
    args=(Arg(param="values", field="values"), Arg(param="returns", field="returns")),
)
HEAD = changed(CRITIC, copy_of=None, shares="actor")
JUDGE = changed(CRITIC, name="judge", kind="reward", trainable=False)


def share(comm: Comm, prompts: list[int]) -> tuple[Rows, TrainBatch]:
    """This rank's rows of some prompts; prompt i lies on rank i modulo their number."""
    rows = Rows.make(prompts=PROMPTS)
    mine = torch.tensor([p in prompts and p % comm.world_size == comm.rank for p in rows.prompt_index.tolist()])
    index = mine.nonzero()[:, 0]
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    args = {
        "old_logp": rows.per_token().select(index),
        "advantages": advantages[index],
        "values": rows.per_token(scale=0.0).select(index),
        "returns": rows.per_token(seed=7).select(index),
    }
    kept = Rows(rows.tokens.select(index), rows.response_mask.select(index), rows.prompt_index[index])
    batch = TrainBatch(
        tokens=kept.tokens,
        response_mask=kept.response_mask,
        args=args,
        prompt_index=kept.prompt_index,
        num_prompts=PROMPTS,
    )
    return kept, batch


def adapters(comm: Comm, precision: str) -> dict[str, Any]:
    model = Model.load(changed(SCRATCH, lora_rank=4, precision=precision), comm=comm, seed=0)
    rows, batch = share(comm, [0, 1, 2, 3])
    at_first = weights(model)
    metrics = [model.train(TRAIN, batch, policy_loss) for _ in range(2)]
    dtypes = {str(p.dtype) for n, p in model.scorer.named_parameters() if not is_adapter(n)}
    assert model.optimizer is not None and all(is_adapter(n) for n in model.optimizer.masters)
    assert {str(m.dtype) for m in model.optimizer.masters.values()} == {"torch.float32"}
    sampler = Sampler(model, seed=0)
    prompts = [f"{i}+{i}=" for i in range(PROMPTS)][comm.rank :: comm.world_size]
    ids = torch.arange(comm.rank, PROMPTS, comm.world_size)
    samples = sampler.generate(prompts, ids, GENERATE, step=0)
    return {
        "metrics": metrics,
        "weights": weights(model),
        "at_first": at_first,
        "scored": model.logprob(rows.tokens, rows.response_mask, temperature=1.0).rows(),
        "samples": dict(zip(samples.ids.tolist(), samples.completions, strict=True)),
        "base": dtypes,
    }


def trunk(comm: Comm, folder: Path, **changes: object) -> dict[str, Any]:
    actor = Model.load(changed(SCRATCH, **changes), comm=comm, seed=0, heads=[HEAD])
    critic = Model.load(HEAD, comm=comm, seed=0, trunk=actor)
    rows, batch = share(comm, [0, 1, 2, 3])
    metrics = []
    for _ in range(2):
        metrics.append(critic.train(VALUE, batch, value_loss))
        metrics.append(actor.train(TRAIN, batch, policy_loss))
    critic.save(folder / "critic")
    return {
        "metrics": metrics,
        "weights": weights(actor),
        "critic": weights(critic),
        "scored": critic.value(rows.tokens, rows.response_mask).rows(),
        "logp": actor.logprob(rows.tokens, rows.response_mask, temperature=1.0).rows(),
    }


def few(comm: Comm) -> dict[str, Any]:
    """Rank 0 of 2 has all the rows; the minibatches of prompts 1 and 3 have none."""
    found: dict[str, Any] = {"metrics": [], "weights": {}}
    for aggregate in Aggregate:
        model = Model.load(SCRATCH, comm=comm, seed=0)
        op = train_op(minibatch=1, epochs=2, aggregate=aggregate, max_grad_norm=0.0)
        for prompts in ([0, 2], []):
            _, batch = share(comm, prompts)
            found["metrics"].append(model.train(op, batch, policy_loss))
        found["weights"] |= {f"{aggregate}.{n}": w for n, w in weights(model).items()}
    return found


def work(comm: Comm, folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"few": few(comm)}
    for precision in ("fp32", "bf16"):
        made[f"adapters {precision}"] = adapters(comm, precision)
        made[f"trunk {precision}"] = trunk(comm, folder / precision, precision=precision)
    made["both bf16"] = trunk(comm, folder / "both", precision="bf16", lora_rank=4)
    judge = Model.load(JUDGE, comm=comm, seed=0)
    # Rank 1 has no rows, and takes part.
    rows, _ = share(comm, [0, 2])
    made["scores"] = judge.score(rows.tokens, rows.response_mask)
    return made


def by_rows(found: list[Any], name: str) -> list[Tensor]:
    """In the order of one rank: three rows a prompt, prompts in turn."""
    groups = [[each[name][i : i + 3] for i in range(0, len(each[name]), 3)] for each in found]
    return [row for turn in zip(*groups, strict=True) for group in turn for row in group]


def test_two_ranks_equal_one(tmp_path: Path):
    found = on_ranks(work, tmp_path)
    (tmp_path / "alone").mkdir()
    want = work(Comm.alone(), tmp_path / "alone")
    for case in ("few", "adapters fp32", "trunk fp32", "adapters bf16", "trunk bf16", "both bf16"):
        exact = "bf16" not in case
        for made in (f[case] for f in found):
            for a, b in zip(made["metrics"], want[case]["metrics"], strict=True):
                assert a.keys() == b.keys()
                for name in b.keys() - {"seconds"}:
                    assert a[name] == pytest.approx(b[name], rel=1e-5 if exact else 0.1, abs=1e-7 if exact else 0.02)
            for kind in made.keys() & {"weights", "critic"}:
                assert made[kind].keys() == want[case][kind].keys()
                for name, weight in want[case][kind].items():
                    assert torch.allclose(made[kind][name], weight, rtol=1e-4, atol=1e-4 if exact else 0.05), name
        if "adapters" in case:
            for made in (f[case] for f in found):
                assert all(torch.equal(w, want[case]["at_first"][n]) for n, w in made["at_first"].items())
                assert made["base"] == want[case]["base"] == {"torch.float32" if exact else "torch.bfloat16"}
        for kind in want[case].keys() & {"scored", "logp"}:
            rows = by_rows([f[case] for f in found], kind)
            for a, b in zip(rows, want[case][kind], strict=True):
                assert torch.allclose(a, b, atol=1e-4 if exact else 0.3)
    both = found[0]["adapters fp32"]["samples"] | found[1]["adapters fp32"]["samples"]
    assert both == want["adapters fp32"]["samples"]
    assert torch.allclose(found[0]["scores"], want["scores"], atol=1e-5)
    assert found[1]["scores"].shape == (0,)
    critic = changed(CRITIC, source=str(tmp_path / "fp32" / "critic"), source_args={}, copy_of=None)
    again = Model.load(critic, comm=Comm.alone(), seed=0).weights()
    assert all(torch.equal(w, again[n]) for n, w in found[0]["trunk fp32"]["critic"].items())
