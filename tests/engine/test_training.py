"""Train ops against plain autograd, and against themselves in other micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite

import pytest
import torch
from torch import Tensor

from rldsl.algos.losses import policy_loss, value_loss
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.compiler.ops import Aggregate, Arg
from rldsl.diagnostics import DiagnosticError
from rldsl.types import TokenLoss
from tests.engine.tiny import CRITIC, Rows, load, perturb, quiet, reference_logp, reference_value, train_op, weights


def by_hand(
    model: Model, rows: Rows, old: Ragged, advantages: Tensor, aggregate: Aggregate
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of the clipped surrogate, row by row, in the plain model."""
    model.scorer.zero_grad()
    parts = []
    for i, (tokens, mask, before) in enumerate(
        zip(rows.tokens.rows(), rows.response_mask.rows(), old.rows(), strict=True)
    ):
        logp = reference_logp(model, tokens)[mask[1:]]
        ratio = (logp - before[mask]).exp()
        parts.append(-torch.minimum(ratio * advantages[i], ratio.clamp(0.8, 1.2) * advantages[i]))
    if aggregate is Aggregate.TOKEN_MEAN:
        loss = torch.cat(parts).sum() / rows.response_mask.values.sum()
    elif aggregate is Aggregate.SEQUENCE_MEAN:
        loss = torch.stack([p.mean() for p in parts]).mean()
    else:
        loss = torch.stack([p.sum() for p in parts]).mean()
    loss.backward()
    grads = {n.removeprefix("model."): p.grad.clone() for n, p in model.scorer.named_parameters()}
    model.scorer.zero_grad()
    return loss.item(), grads


def norm(grads: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().square().sum() for g in grads.values()]).sum().sqrt())


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_loss_gradient_and_step_equal_plain_autograd(rows: Rows, aggregate: Aggregate):
    model, twin = perturb(load()), perturb(load())
    g = torch.Generator().manual_seed(2)
    advantages = torch.randn(len(rows), generator=g)
    noise = rows.per_token(seed=4, scale=0.3)
    now = model.logprob(rows.tokens, rows.response_mask, temperature=1.0)
    old = Ragged(now.values + noise.values, now.lengths)
    loss, grads = by_hand(twin, rows, old, advantages, aggregate)
    unclipped = norm(grads)
    for parameter, grad in zip(twin.scorer.parameters(), grads.values(), strict=True):
        parameter.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(twin.scorer.parameters(), 1.0)
    torch.optim.AdamW(twin.scorer.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01).step()
    op = train_op(aggregate=aggregate, weight_decay=0.01)
    made = model.train(op, rows.batch(old_logp=old, advantages=advantages), policy_loss)
    assert made["loss"] == pytest.approx(loss, rel=1e-5)
    assert made["grad_norm"] == pytest.approx(unclipped, rel=1e-5)
    assert made["tokens"] == len(rows.tokens.values)
    assert 0 < made["clip_fraction"] < 1
    after, want = weights(model), weights(twin)
    assert all(torch.allclose(after[n], want[n], atol=1e-5) for n in want)


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_micro_batches_change_nothing(rows: Rows, aggregate: Aggregate):
    advantages, old = torch.randn(len(rows), generator=torch.Generator().manual_seed(2)), rows.per_token()
    results = []
    for budget in (0, 5, 30):
        model = perturb(load())
        op = train_op(aggregate=aggregate, micro_batch_tokens=budget, epochs=2, minibatch=2)
        results.append((model.train(op, rows.batch(old_logp=old, advantages=advantages), policy_loss), weights(model)))
    (first, kept), *others = results
    for made, after in others:
        for name in ("loss", "grad_norm", "kl", "clip_fraction"):
            assert made[name] == pytest.approx(first[name], rel=1e-5), name
        assert all(torch.allclose(after[n], kept[n], atol=1e-5) for n in kept)


def test_skipping_rows_of_zero_advantage_changes_nothing(rows: Rows):
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    advantages[2:7] = 0.0
    results = []
    for skip in (None, "advantages"):
        model = perturb(load())
        made = [
            model.train(
                train_op(skip_where_zero=skip, minibatch=2),
                rows.batch(old_logp=rows.per_token(), advantages=part),
                policy_loss,
            )
            # The second time nothing is left to do but Adam's momentum.
            for part in (advantages, torch.zeros(len(rows)))
        ]
        results.append((made, weights(model)))
    (plain, want), (skipped, after) = results
    for a, b in zip(plain, skipped, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
    assert max(float((after[n] - want[n]).abs().max()) for n in want) < 1e-5


def test_current_log_probs_give_ratio_one(rows: Rows):
    model = perturb(load())
    args = (Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages"), Arg(param="ref_logp"))
    advantages = torch.ones(len(rows))
    made = model.train(train_op(args=args), rows.batch(advantages=advantages), policy_loss)
    assert made["loss"] == pytest.approx(-1.0, rel=1e-6)
    assert made["kl"] == 0.0
    assert "ref_kl" not in made


def test_value_training_equals_plain_autograd(rows: Rows):
    critic, twin = perturb(load(CRITIC)), perturb(load(CRITIC))
    returns = rows.per_token(seed=7)
    values = critic.value(rows.tokens, rows.response_mask)
    op = train_op(
        model="critic",
        loss="value_loss",
        params={},
        args=(
            Arg(param="values", field="values"),
            Arg(param="returns", field="returns"),
        ),
    )
    made = critic.train(op, rows.batch(values=values, returns=returns), value_loss)
    parts = [
        0.5 * (reference_value(twin, t)[m[1:]] - r[m]).square()
        for t, m, r in zip(rows.tokens.rows(), rows.response_mask.rows(), returns.rows(), strict=True)
    ]
    loss = torch.cat(parts).mean()
    loss.backward()
    assert made["loss"] == pytest.approx(loss.item(), rel=1e-5)
    grads = {n: p.grad for n, p in twin.scorer.named_parameters()}
    assert made["grad_norm"] == pytest.approx(norm(grads), rel=1e-5)


def test_bf16_trains_its_float32_masters(rows: Rows):
    model = load(precision="bf16")
    before = weights(model)
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    args = (Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages"))
    made = [
        model.train(train_op(lr=1e-6, args=args, micro_batch_tokens=b), rows.batch(advantages=advantages), policy_loss)
        for b in (0, 8)
    ]
    after = weights(model)
    # Steps of 1e-6 are lost in bfloat16, not in the masters; all micro-batches of a step are summed.
    assert all(not torch.equal(before[n], after[n]) for n in before)
    assert made[1]["grad_norm"] == pytest.approx(made[0]["grad_norm"], rel=0.02)
    for name, copy in model.scorer.named_parameters():
        assert copy.dtype == torch.bfloat16
        assert torch.equal(copy, after[name.removeprefix("model.")].bfloat16())


def test_lists_of_text_reach_the_loss_in_row_order(rows: Rows):
    model = load()
    names = [f"row {i}" for i in range(len(rows))]

    def loss(logp: Tensor, response_mask: Tensor, names: list[str], weight: Tensor) -> TokenLoss:
        assert [float(n.split()[1]) for n in names] == weight.tolist()
        return TokenLoss(-logp * weight[:, None], {})

    args = (Arg(param="names", field="names"), Arg(param="weight", field="weight"))
    batch = rows.batch(names=names, weight=torch.arange(float(len(rows))))
    model.train(train_op(args=args, params={}, micro_batch_tokens=8), batch, loss)


def test_a_loss_that_averages_itself_is_refused(rows: Rows):
    def loss(logp: Tensor, response_mask: Tensor) -> TokenLoss:
        return TokenLoss(-logp.mean(), {})

    with pytest.raises(DiagnosticError, match=r"RL0706.*wrong shape"):
        load().train(train_op(loss="mine", args=(), params={}), rows.batch(), loss)


def test_a_gradient_that_is_not_finite_is_refused(rows: Rows):
    def loss(logp: Tensor, response_mask: Tensor) -> TokenLoss:
        return TokenLoss(logp / 0.0, {})

    model = load()
    before = weights(model)
    with pytest.raises(DiagnosticError, match=r"RL0709.*not finite"):
        model.train(train_op(args=(), params={}), rows.batch(), loss)
    assert all(torch.equal(before[n], w) for n, w in model.weights().items())


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_a_row_without_a_response_adds_nothing(rows: Rows, aggregate: Aggregate):
    advantages, old = torch.randn(len(rows), generator=torch.Generator().manual_seed(2)), rows.per_token()
    spoken = [i for i in range(len(rows)) if i not in (1, 5)]
    model, twin = perturb(load()), perturb(load())
    batch = rows.batch(old_logp=old, advantages=advantages)
    with_silent = replace(batch, response_mask=quiet(rows, [1, 5]))
    index = torch.tensor(spoken)
    without = replace(
        batch,
        tokens=rows.tokens.select(index),
        response_mask=rows.response_mask.select(index),
        prompt_index=rows.prompt_index[index],
        args={"old_logp": old.select(index), "advantages": advantages[index]},
    )
    op = train_op(aggregate=aggregate, max_grad_norm=0.0)
    found, want = model.train(op, with_silent, policy_loss), twin.train(op, without, policy_loss)
    # A mean over sequences counts the silent ones too, as sequences of loss 0.
    share = 1.0 if aggregate is Aggregate.TOKEN_MEAN else len(spoken) / len(rows)
    for name in ("loss", "grad_norm"):
        assert found[name] == pytest.approx(share * want[name], rel=1e-5), name


def batch_of(rows: Rows, prompts: list[int], num_prompts: int = 4) -> TrainBatch:
    """The rows of these prompts alone, in a batch that has room for more."""
    kept = torch.isin(rows.prompt_index, torch.tensor(prompts)).nonzero()[:, 0]
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    return TrainBatch(
        tokens=rows.tokens.select(kept),
        response_mask=rows.response_mask.select(kept),
        args={"old_logp": rows.per_token().select(kept), "advantages": advantages[kept]},
        prompt_index=rows.prompt_index[kept],
        num_prompts=num_prompts,
    )


@pytest.mark.parametrize("num_prompts", [4, 3])
def test_minibatches_without_rows_take_no_step(rows: Rows, num_prompts: int):
    model, twin = perturb(load()), perturb(load())
    # Of three minibatches of one prompt the second is empty: momentum must not move a weight.
    op = train_op(minibatch=1, epochs=2)
    found = model.train(op, batch_of(rows, [0, 2], num_prompts), policy_loss)
    closed = batch_of(rows, [0, 2])
    closed = replace(closed, prompt_index=torch.tensor([0, 0, 0, 1, 1, 1]), num_prompts=2)
    want = twin.train(op, closed, policy_loss)
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in want.items() if k != "seconds"}
    after = weights(twin)
    assert all(torch.equal(after[n], w) for n, w in model.weights().items())


def test_training_without_any_row_is_nothing(rows: Rows):
    model = perturb(load())
    before = weights(model)
    for op in (train_op(minibatch=2), train_op(minibatch=2, skip_where_zero="advantages")):
        made = model.train(op, batch_of(rows, []), policy_loss)
        assert made["loss"] == made["grad_norm"] == made["tokens"] == 0.0
        assert made["lr"] == op.lr
    assert all(torch.equal(before[n], w) for n, w in model.weights().items())


def test_a_last_minibatch_may_be_smaller(rows: Rows):
    moved = []
    for minibatch in (3, 4):
        model = perturb(load())
        before = weights(model)
        model.train(train_op(minibatch=minibatch), batch_of(rows, [3]), policy_loss)
        moved.append(max(float((before[n] - w).abs().max()) for n, w in model.weights().items()))
    assert moved[0] == moved[1] > 0


@pytest.mark.parametrize("aggregate", list(Aggregate))
@pytest.mark.parametrize("silent", [range(6), range(12)], ids=["one minibatch", "all"])
def test_a_minibatch_without_a_response_is_a_step_of_zero(rows: Rows, aggregate: Aggregate, silent: range):
    model = perturb(load())
    before = weights(model)
    batch = replace(
        rows.batch(old_logp=rows.per_token(), advantages=torch.ones(len(rows))), response_mask=quiet(rows, list(silent))
    )
    made = model.train(train_op(aggregate=aggregate, minibatch=2), batch, policy_loss)
    assert all(isfinite(value) for value in made.values()), made
    assert all(bool(w.isfinite().all()) for w in model.weights().values())
    if len(silent) == len(rows):
        assert made["loss"] == made["grad_norm"] == 0.0
        assert all(torch.equal(before[n], w) for n, w in model.weights().items())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda logp: TokenLoss(-logp.detach()), "no gradient"),
        (lambda logp: TokenLoss(-logp, {"x": 1.0}), "no tensor as `x`"),
        (lambda logp: TokenLoss(-logp, {"x": logp.mean()}), "wrong shape"),
    ],
)
def test_losses_that_cannot_be_trained_on(rows: Rows, made: Callable[[Tensor], TokenLoss], said: str):
    with pytest.raises(DiagnosticError, match=f"RL0706.*{said}"):
        load().train(train_op(loss="mine", args=(), params={}), rows.batch(), lambda logp, response_mask: made(logp))
