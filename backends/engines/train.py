"""One train op: minibatches, micro-batches, exact global averages, optimiser steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Data, Ragged
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.optim import Optimizer
from rldsl.backends.engines.packing import MicroBatch, idle, micro_batches
from rldsl.backends.engines.recompute import recomputing
from rldsl.backends.engines.score import budget, fill, longest
from rldsl.backends.functions import definition
from rldsl.compiler.ops import Aggregate, TrainOp
from rldsl.diagnostics import Span, fail
from rldsl.types import TokenLoss

Loss = Callable[..., TokenLoss]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """This rank's rows of a step's batch.

    `args` are the loss's fields by parameter. `prompt_index` i64[rows] counts each row's prompt in the batch of
    `num_prompts` prompts over all ranks: minibatch k is those from k * minibatch on.
    """

    tokens: Ragged
    response_mask: Ragged
    args: Mapping[str, Data | None]
    prompt_index: Tensor
    num_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Minibatch:
    """What one optimiser step sees: this rank's micro-batches, padded with None, and the count over all ranks."""

    micros: list[MicroBatch | None]
    count: float


@dataclass(slots=True)
class _Sums:
    """Weighted sums of the loss and of each metric, float64 on the device until the end: no waits in between."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None

    def add(self, loss: Tensor, metrics: Mapping[str, Tensor], weight: Tensor, mask: Tensor) -> None:
        """Add a micro-batch: its part of the loss, and its metrics by `weight` where `mask` is set."""
        self.loss += loss.detach()
        total = weight.double().sum()
        self.weight = total if self.weight is None else self.weight + total
        for name, value in metrics.items():
            found = (torch.where(mask, value.detach(), 0.0) * weight).double().sum()
            self.metrics[name] = self.metrics[name] + found if name in self.metrics else found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the micro-batches of a train op have in common."""

    scorer: Scorer
    head: int | None
    op: TrainOp
    batch: TrainBatch
    loss: Loss


def train(
    scorer: Scorer,
    optimizer: Optimizer,
    comm: Comm,
    op: TrainOp,
    batch: TrainBatch,
    loss: Loss,
    *,
    head: int | None = None,
) -> dict[str, float]:
    """Run `op` with `head` of the scorer; returns global metrics, the same on every rank.

    `steps` counts optimiser steps, and `loss` and `grad_norm` are means over them, 0 if there was none: minibatches
    without a row on any rank take no step. `tokens` counts prompt and response tokens of the batch on all ranks; the
    loss function's metrics are averaged as the loss is, over rows that were not skipped.
    """
    began = time.perf_counter()
    scorer.check_length(longest(batch.tokens))
    totals = comm.all_reduce(torch.tensor([len(batch.tokens.values)]))
    found = (_minibatch(comm, op, batch, k) for k in range(-(-batch.num_prompts // op.minibatch)))
    minibatches = [each for each in found if each is not None]
    sums = _Sums(torch.zeros((), dtype=torch.float64, device=comm.device))
    norms = []
    work = _Work(scorer=scorer, head=head, op=op, batch=batch, loss=loss)
    with recomputing(scorer, op.recompute):
        for each in minibatches * op.epochs:
            for micro in each.micros:
                _backward(work, micro, each.count, sums)
            norms.append(optimizer.step(op, head))
    return {
        **_combined(comm, sums, len(norms)),
        "grad_norm": sum(norms) / max(1, len(norms)),
        "lr": op.lr,
        "steps": float(len(norms)),
        "tokens": float(totals[0]),
        "seconds": time.perf_counter() - began,
    }


def _minibatch(comm: Comm, op: TrainOp, batch: TrainBatch, k: int) -> _Minibatch | None:
    """None where no rank has a row."""
    mine = batch.prompt_index.cpu() // op.minibatch == k
    rows = mine.nonzero()[:, 0]
    tokens = float(batch.response_mask.select(rows).values.sum())
    counts = comm.all_reduce(torch.tensor([len(rows), tokens], dtype=torch.float64))
    if not counts[0]:
        return None
    device = comm.device
    micros = micro_batches(
        batch.tokens.to(device),
        batch.response_mask.to(device),
        _kept(op, batch, rows),
        budget=budget(device, op.micro_batch_tokens),
    )
    count = counts[1] if op.aggregate is Aggregate.TOKEN_MEAN else counts[0]
    return _Minibatch(micros=fill(micros, comm, device), count=float(count))


def _kept(op: TrainOp, batch: TrainBatch, rows: Tensor) -> Tensor:
    """The rows that can add to the gradient."""
    if op.skip_where_zero is None:
        return rows
    param = next(a.param for a in op.args if a.field == op.skip_where_zero)
    values = batch.args[param]
    assert isinstance(values, Tensor), f"`{op.skip_where_zero}` must have one number a sample"
    return rows[values.cpu()[rows] != 0]


def _backward(work: _Work, micro: MicroBatch | None, count: float, sums: _Sums) -> None:
    op, device = work.op, sums.loss.device
    (found,) = work.scorer(micro or idle(device), [Head(work.head, op.temperature, op.logits)])
    if micro is None:
        torch.autograd.backward(found.sum() * 0.0)
        return
    current = micro.dense(found)
    made = work.loss(current, micro.mask, **_arguments(op, work.batch, micro, current), **op.params)
    _check(made, micro.mask, op, definition(work.loss))
    _check_gradient(made, op, definition(work.loss))
    weight = _weight(micro.mask, op.aggregate) / count
    total = (torch.where(micro.mask, made.loss, 0.0) * weight).sum()
    torch.autograd.backward(total)
    sums.add(total, made.metrics, weight, micro.mask)


def _weight(mask: Tensor, aggregate: Aggregate) -> Tensor:
    """f32[rows, tokens]: each token's part in the sum that `count` divides."""
    ones = mask.float()
    return ones / ones.sum(1, keepdim=True) if aggregate is Aggregate.SEQUENCE_MEAN else ones


def _arguments(op: TrainOp, batch: TrainBatch, micro: MicroBatch, current: Tensor) -> dict[str, object]:
    """The loss's arguments for the rows of a micro-batch, padded as its mask is."""
    made: dict[str, object] = {}
    for arg in op.args:
        if arg.current:
            made[arg.param] = current.detach()
        elif arg.field is None:
            made[arg.param] = None
        else:
            made[arg.param] = _rows(batch.args[arg.param], micro)
    return made


def _rows(data: Data | None, micro: MicroBatch) -> object:
    device = micro.mask.device
    if isinstance(data, Ragged):
        return data.select(micro.rows).to(device).padded()
    if isinstance(data, list):
        return [data[i] for i in micro.rows.tolist()]
    assert data is not None
    return data[micro.rows].to(device)


def _check(made: TokenLoss, mask: Tensor, op: TrainOp, span: Span | None) -> None:
    """RL0706 unless the loss and its metrics have one number a token."""
    returned: list[tuple[str, object]] = [("loss", made.loss), *made.metrics.items()]
    for name, value in returned:
        if not isinstance(value, Tensor):
            expected = "a tensor [rows, tokens]: the engine averages it"
            fail(
                "RL0706",
                f"loss function `{op.loss}` returned no tensor as `{name}`",
                span=span,
                expected=expected,
                found=repr(value),
            )
        if value.shape != mask.shape:
            fail(
                "RL0706",
                f"loss function `{op.loss}` returned `{name}` of the wrong shape",
                span=span,
                expected=f"one number a token, not yet averaged: [rows, tokens] = {list(mask.shape)}",
                found=str(list(value.shape)),
            )


def _check_gradient(made: TokenLoss, op: TrainOp, span: Span | None) -> None:
    """RL0706 for a loss that its first argument has no part in: there would be nothing to train."""
    if not made.loss.requires_grad:
        fix = "compute it from the first argument, without `detach` or `no_grad`"
        message = f"the loss of `{op.loss}` has no gradient: it does not depend on the model"
        fail("RL0706", message, span=span, fix=fix)


def _combined(comm: Comm, sums: _Sums, steps: int) -> dict[str, float]:
    """Sums over all ranks; a rank that skipped all its rows does not know the metrics' names, so objects travel."""
    mine = {name: float(value) for name, value in sums.metrics.items()}
    weight = 0.0 if sums.weight is None else float(sums.weight)
    everyone = comm.all_gather_object((float(sums.loss), weight, mine))
    total = sum(w for _, w, _ in everyone)
    names = sorted({name for _, _, metrics in everyone for name in metrics})
    averages = {n: sum(m.get(n, 0.0) for _, _, m in everyone) / total for n in names}
    return {"loss": sum(part for part, _, _ in everyone) / max(1, steps), **averages}
