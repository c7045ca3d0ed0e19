"""The base of a model with adapters: a model without weights of its own, equal to the bit to one that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from rldsl.algos.losses import policy_loss, value_loss
from rldsl.backends.comm import Comm
from rldsl.backends.engines.model import Model
from rldsl.compiler.ops import Recompute
from tests.engine.test_sharded_kinds import HEAD, TRAIN, VALUE, share
from tests.engine.tiny import SCRATCH, Rows, changed, weights
from tests.ranks import on_ranks

BASE = changed(SCRATCH, name="reference", copy_of="actor", trainable=False, base_of="actor")
COPY = changed(BASE, base_of=None)
PRECISIONS = ("fp32", "bf16")


def said(model: Model, rows: Rows) -> Tensor:
    return model.logprob(rows.tokens, rows.response_mask, temperature=0.7).values


def work(comm: Comm, _: Path) -> dict[str, Any]:
    """What an actor with a head on its trunk, its base, and a copy say before training and after it."""
    return {precision: trained(comm, precision) for precision in PRECISIONS}


def trained(comm: Comm, precision: str) -> dict[str, Any]:
    actor = Model.load(changed(SCRATCH, lora_rank=4, precision=precision), comm=comm, seed=0, heads=[HEAD])
    critic = Model.load(HEAD, comm=comm, seed=0, trunk=actor)
    base = Model.load(changed(BASE, precision=precision), comm=comm, seed=0, trunk=actor)
    copy = Model.load(changed(COPY, precision=precision), comm=comm, seed=0)
    assert base.optimizer is None and base.scorer is actor.scorer and copy.scorer is not actor.scorer
    rows, batch = share(comm, [0, 1, 2, 3])
    found: dict[str, Any] = {"at first": [said(m, rows) for m in (actor, base, copy)]}
    for recompute in Recompute:
        critic.train(replace(VALUE, recompute=recompute), batch, value_loss)
        actor.train(replace(TRAIN, recompute=recompute), batch, policy_loss)
        # The actor before and after the base has run: its adapters are on again.
        found[recompute] = [said(m, rows) for m in (actor, base, copy, actor)]
    found["weights"] = [weights(m) for m in (actor, base, copy)]
    return found


def check(found: dict[str, Any]) -> None:
    for made in found.values():
        actor, base, copy = made["at first"]
        assert torch.equal(actor, base) and torch.equal(base, copy)
        for recompute in Recompute:
            before, base, copy, after = made[recompute]
            assert torch.equal(base, copy) and torch.equal(before, after)
            assert not torch.allclose(base, before, atol=1e-2)
        actor, base, copy = made["weights"]
        assert base.keys() == copy.keys() == actor.keys()
        assert all(torch.equal(w, base[n]) and w.dtype == base[n].dtype for n, w in copy.items())
        assert not all(torch.equal(w.float(), base[n].float()) for n, w in actor.items())


def test_on_one_rank(tmp_path: Path):
    check(work(Comm.alone(), tmp_path))


def test_on_two_ranks(tmp_path: Path):
    for found in on_ranks(work, tmp_path):
        check(found)
