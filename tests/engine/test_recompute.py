"""Layers run again in the backward pass, micro-batches of forwards, few logits at once: the same numbers, less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.recompute import layers_of
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.ops import Recompute
from tests.engine.tiny import SCRATCH, Rows, load, perturb, train_op, weights
from tests.ranks import on_ranks


@contextmanager
def counted(model: Model) -> Iterator[list[str]]:
    """How often a product of the first layer runs."""
    found: list[str] = []
    # Before it runs: it is not run to its end once what it needs for the backward pass is there again.
    first = layers_of(model.scorer.model)[0].get_submodule("mlp.down_proj")
    hook = first.register_forward_pre_hook(lambda *_: found.append("forward"))
    yield found
    hook.remove()


def trained(model: Model, kind: Recompute, rank: int = 0, world: int = 1) -> dict[str, object]:
    rows = Rows.make()
    mine = (rows.prompt_index % world == rank).nonzero()[:, 0]
    batch = TrainBatch(
        tokens=rows.tokens.select(mine),
        response_mask=rows.response_mask.select(mine),
        args={"old_logp": rows.per_token().select(mine), "advantages": torch.ones(len(mine))},
        prompt_index=rows.prompt_index[mine],
        num_prompts=4,
    )
    op = train_op(minibatch=2, epochs=2, micro_batch_tokens=24, recompute=kind)
    with counted(model) as forwards:
        made = model.train(op, batch, policy_loss)
    made.pop("seconds")
    return {"metrics": made, "weights": weights(model), "forwards": len(forwards)}


def same(found: dict[str, object], want: dict[str, object]) -> None:
    assert found["metrics"] == want["metrics"]
    mine, theirs = found["weights"], want["weights"]
    assert isinstance(mine, dict) and isinstance(theirs, dict)
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_made_again_is_the_same_to_the_bit(precision: str) -> None:
    none, some, full = (trained(load(precision=precision), kind) for kind in Recompute)
    same(some, none)
    same(full, none)
    assert full["forwards"] == 2 * int(str(none["forwards"])) == some["forwards"]


def on_rank(comm: Comm, _: Path) -> dict[str, object]:
    def found(kind: Recompute) -> dict[str, object]:
        return trained(Model.load(SCRATCH, comm=comm, seed=0), kind, comm.rank, comm.world_size)

    return {kind: found(kind) for kind in Recompute}


def test_the_same_under_fsdp(tmp_path: Path) -> None:
    for found in on_ranks(on_rank, tmp_path):
        same(found[Recompute.SELECTIVE], found[Recompute.NONE])
        same(found[Recompute.FULL], found[Recompute.NONE])
        assert found[Recompute.FULL]["forwards"] == 2 * found[Recompute.NONE]["forwards"]


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(kind: Recompute) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            trained(perturb(load()), kind)
        return sum(sizes)

    # The graph inside a layer is saved by hooks of its own, which these never see.
    assert kept(Recompute.FULL) < kept(Recompute.NONE) / 2


@pytest.mark.parametrize("tokens", [8, 30])
def test_forwards_in_micro_batches(tokens: int) -> None:
    model, rows = perturb(load()), Rows.make()
    ask = model.ask(rows.response_mask)
    (whole,) = model.answers(rows.tokens, [ask])
    with counted(model) as forwards:
        (parts,) = model.answers(rows.tokens, [ask], micro_batch_tokens=tokens)
    assert torch.allclose(parts.values, whole.values, atol=1e-6)
    assert len(forwards) > 1


def test_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    logsumexp = Tensor.logsumexp
    monkeypatch.setattr(Tensor, "logsumexp", lambda self, dim: shapes.append(len(self)) or logsumexp(self, dim))
    rows = Rows.make()
    batch = rows.batch(old_logp=rows.per_token(), advantages=torch.ones(len(rows)))
    whole, pieces = (perturb(load()) for _ in range(2))
    whole.train(train_op(), batch, policy_loss)
    assert max(shapes) > 2
    shapes.clear()
    pieces.train(train_op(logits=2 * 17), batch, policy_loss)
    pieces.answers(rows.tokens, [pieces.ask(rows.response_mask, logits=2 * 17)])
    assert max(shapes) == 2
    found, want = weights(pieces), weights(whole)
    assert all(torch.allclose(found[n], want[n], atol=1e-5) for n in want)
