"""One forward of a shared trunk for several heads, against one for each: the same numbers, half the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.model import Model
from rldsl.compiler.ops import Arg
from tests.engine.tiny import CRITIC, SCRATCH, Rows, changed, quiet, train_op
from tests.ranks import on_ranks

HEAD = changed(CRITIC, copy_of=None, shares="actor")
STEP = train_op(lr=1e-2, args=(Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages")))


def pair(comm: Comm) -> tuple[Model, Model]:
    actor = Model.load(SCRATCH, comm=comm, seed=0, heads=[HEAD])
    critic = Model.load(HEAD, comm=comm, seed=0, trunk=actor)
    stir(actor)
    return actor, critic


def stir(model: Model) -> None:
    """Larger random weights, the same on any number of ranks."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.scorer.parameters():
            noise = torch.randn(parameter.shape, generator=g) * 0.1
            sharded = isinstance(parameter, DTensor)
            parameter.add_(distribute_tensor(noise, parameter.device_mesh, parameter.placements) if sharded else noise)


class Passes:
    """Counts how often the layers run."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.scorer.model.base_model.layers[0].register_forward_hook(self._one)

    def _one(self, *_: object) -> None:
        self.count += 1


def apart(actor: Model, critic: Model, tokens: Ragged, mask: Ragged) -> list[Tensor]:
    found = (
        actor.logprob(tokens, mask, temperature=1.0),
        actor.logprob(tokens, mask, temperature=0.7),
        critic.value(tokens, mask),
    )
    return [f.values for f in found]


def together(actor: Model, critic: Model, tokens: Ragged, mask: Ragged) -> list[Tensor]:
    asks = [actor.ask(mask), actor.ask(mask, 0.7), critic.ask(mask)]
    return [f.values for f in actor.answers(tokens, asks)]


def far(some: list[Tensor], others: list[Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(some, others, strict=True))


def test_the_same_numbers_from_one_pass(rows: Rows):
    actor, critic = pair(Comm.alone())
    passes = Passes(actor)
    want = apart(actor, critic, rows.tokens, rows.response_mask)
    assert passes.count == 3
    found = together(actor, critic, rows.tokens, rows.response_mask)
    assert passes.count == 4
    assert far(found, want) <= 1e-6
    assert far(want[:1], want[1:2]) > 0.1 and want[2].abs().max() > 0.1, "three different things were asked"


def test_each_head_minds_its_own_mask(rows: Rows):
    actor, critic = pair(Comm.alone())
    half = quiet(rows, [0, 1, 5])
    found = actor.answers(rows.tokens, [actor.ask(half), critic.ask(rows.response_mask)])
    want = [actor.logprob(rows.tokens, half, temperature=1.0), critic.value(rows.tokens, rows.response_mask)]
    assert far([f.values for f in found], [w.values for w in want]) <= 1e-6
    assert not found[0].values[~half.values].any() and found[1].values[~half.values].any()


@pytest.mark.parametrize("silent", [[0, 3], list(range(12))], ids=["some", "all"])
def test_rows_without_a_response(rows: Rows, silent: list[int]):
    actor, critic = pair(Comm.alone())
    mask = quiet(rows, silent)
    assert far(together(actor, critic, rows.tokens, mask), apart(actor, critic, rows.tokens, mask)) <= 1e-6


def test_no_rows_at_all(rows: Rows):
    actor, critic = pair(Comm.alone())
    none = torch.tensor([], dtype=torch.int64)
    found = together(actor, critic, rows.tokens.select(none), rows.response_mask.select(none))
    assert [len(f) for f in found] == [0, 0, 0]


def on_each_rank(comm: Comm, folder: Path) -> dict[str, Any]:
    """Rank 1 has no rows to ask of and runs along; a step between two forwards must be seen by the second."""
    actor, critic = pair(comm)
    rows = Rows.make()
    mine = torch.arange(len(rows) if comm.rank == 0 else 0)
    tokens, mask = rows.tokens.select(mine), rows.response_mask.select(mine)
    passes = Passes(actor)
    made: dict[str, Any] = {"first": together(actor, critic, tokens, mask), "passes": passes.count}
    made["first apart"] = apart(actor, critic, tokens, mask)
    made["passes apart"] = passes.count - made["passes"]
    actor.train(STEP, rows.batch(advantages=torch.ones(len(rows))), policy_loss)
    return made | {"then": together(actor, critic, tokens, mask), "then apart": apart(actor, critic, tokens, mask)}


def test_two_ranks(tmp_path: Path):
    ranks = on_ranks(on_each_rank, tmp_path)
    assert [(made["passes"], made["passes apart"]) for made in ranks] == [(1, 3), (1, 3)]
    assert all(len(values) == 0 for values in ranks[1]["first"])
    asked = ranks[0]
    assert far(asked["first"], asked["first apart"]) <= 1e-6
    assert far(asked["then"], asked["then apart"]) <= 1e-6
    assert far(asked["first"], asked["then"]) > 1e-3, "the step changed nothing"
    rows = Rows.make()
    alone = together(*pair(Comm.alone()), rows.tokens, rows.response_mask)
    assert far(asked["first"], alone) <= 1e-6
