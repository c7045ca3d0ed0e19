"""Further responses: what is there stays, what is added is what the model says of the whole sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import generate
from rldsl.backends.engines.generate import Sampler, Samples
from rldsl.backends.engines.model import Model
from rldsl.compiler.ops import ExtendOp, GenerateOp
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import load, perturb

PROMPTS = ["1+2=", "12+34=", "1+2=", "7", "9+9+9="]
OBSERVATIONS = ["+1=", "", "+1=", "=0 ", "12"]
ROLLOUT = GenerateOp(id="rollout", model="actor", prompts="p", n=2, max_new_tokens=6, temperature=1.0, outputs={})


def op(**changes: object) -> ExtendOp:
    fields: dict[str, object] = {
        "id": "dialogue.0.reply",
        "model": "actor",
        "tokens": "tokens",
        "response_mask": "response_mask",
        "rollout_logp": "rollout_logp",
        "observation": "observation",
        "max_new_tokens": 5,
        "temperature": 1.0,
        "outputs": {},
    }
    return ExtendOp(**{**fields, **changes})


def begun(model: Model, **changes: object) -> tuple[Sampler, Samples]:
    sampler = Sampler(model, seed=11)
    return sampler, sampler.generate(PROMPTS, torch.arange(5), ROLLOUT, step=0)


def extend(
    sampler: Sampler, so_far: Samples, observations: list[str], done: Tensor | None = None, **changes: object
) -> Samples:
    return sampler.extend(
        so_far.tokens,
        so_far.response_mask,
        so_far.rollout_logp,
        observations,
        done,
        so_far.ids,
        op(**changes),
        step=0,
    )


def pick(made: Samples, index: list[int]) -> Samples:
    rows = torch.tensor(index, dtype=torch.int64)
    return Samples(
        tokens=made.tokens.select(rows),
        response_mask=made.response_mask.select(rows),
        rollout_logp=made.rollout_logp.select(rows),
        completions=[made.completions[i] for i in index],
        ids=made.ids[rows],
    )


def lists(column: Ragged) -> list[list[float]]:
    return [r.tolist() for r in column.rows()]


TWICE = [o for o in OBSERVATIONS for _ in range(2)]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_log_probs_of_all_turns_are_those_of_a_later_forward(temperature: float):
    model = perturb(load())
    sampler = Sampler(model, seed=11)
    first = GenerateOp(
        id="rollout", model="actor", prompts="p", n=2, max_new_tokens=6, temperature=temperature, outputs={}
    )
    made = sampler.generate(PROMPTS, torch.arange(5), first, step=0)
    for turn in range(3):
        made = extend(sampler, made, TWICE, temperature=temperature, id=f"dialogue.{turn}.reply")
    again = model.logprob(made.tokens, made.response_mask, temperature=temperature)
    assert torch.allclose(made.rollout_logp.values, again.values, atol=1e-4)
    assert made.rollout_logp.values[made.response_mask.values].max() < 0
    assert not made.rollout_logp.values[~made.response_mask.values].any()


def test_an_observation_is_appended_outside_the_mask_and_a_response_inside():
    model = perturb(load())
    sampler, before = begun(model)
    made = extend(sampler, before, TWICE)
    assert torch.equal(made.ids, before.ids)
    columns = (before.tokens, made.tokens, before.response_mask, made.response_mask)
    rows = zip(*(lists(c) for c in columns), TWICE, made.completions, strict=True)
    for old, new, old_mask, mask, said, text in rows:
        added = model.tokenizer(said, add_special_tokens=False)["input_ids"]
        response = new[len(old) + len(added) :]
        assert new == [*old, *added, *response]
        assert mask == [*old_mask, *[False] * len(added), *[True] * len(response)]
        assert 1 <= len(response) <= 5
        assert text == model.tokenizer.decode(response, skip_special_tokens=True)
    for old, new in zip(lists(before.rollout_logp), lists(made.rollout_logp), strict=True):
        assert new[: len(old)] == old


def test_rows_that_are_done_stay():
    sampler, before = begun(perturb(load()))
    done = torch.arange(10) % 3 == 0
    made, all_go = extend(sampler, before, TWICE, done), extend(sampler, before, TWICE)
    for i, over in enumerate(done.tolist()):
        want = before if over else all_go
        for name in ("tokens", "response_mask"):
            assert lists(getattr(made, name))[i] == lists(getattr(want, name))[i]
        assert torch.allclose(made.rollout_logp.rows()[i], want.rollout_logp.rows()[i], atol=1e-5)
        assert made.completions[i] == want.completions[i]
    nothing = extend(sampler, before, TWICE, torch.ones(10, dtype=torch.bool))
    assert lists(nothing.tokens) == lists(before.tokens)
    assert nothing.completions == before.completions
    assert any(before.completions)


def test_draws_depend_on_the_node_the_step_and_the_row_alone(monkeypatch: pytest.MonkeyPatch):
    sampler, before = begun(perturb(load()))
    made = extend(sampler, before, TWICE)
    index = [7, 2, 4]
    some = extend(sampler, pick(before, index), [TWICE[i] for i in index])
    assert lists(some.tokens) == [lists(made.tokens)[i] for i in index]
    assert lists(extend(sampler, before, TWICE, id="x", node="dialogue.0.reply").tokens) == lists(made.tokens)
    assert lists(extend(sampler, before, TWICE, id="dialogue.1.reply").tokens) != lists(made.tokens)
    monkeypatch.setattr(generate, "KV_BYTES", 1)
    assert lists(extend(sampler, before, TWICE).tokens) == lists(made.tokens)


def test_tokens_are_never_made_from_their_text_again():
    model = perturb(load())
    two = model.tokenizer.convert_tokens_to_ids("2")
    # The tokenizer now knows a token for `22`; those that are here were sampled as two.
    model.tokenizer.add_tokens(["22"])
    assert model.tokenizer("22", add_special_tokens=False)["input_ids"] != [two, two]
    tokens = Ragged.of([torch.tensor([1, two, two]), torch.tensor([1, 5, two, two])])
    mask = Ragged.of([torch.tensor([False, False, True]), torch.tensor([False, False, True, True])])
    logp = Ragged(torch.where(mask.values, -1.5, 0.0), mask.lengths)
    made = Sampler(model, seed=0).extend(tokens, mask, logp, ["2", "+"], None, torch.arange(2), op(), step=0)
    assert lists(made.tokens)[0][:4] == [1, two, two, two]
    assert lists(made.tokens)[1][:5] == [1, 5, two, two, 15]
    assert lists(made.rollout_logp)[1][:5] == [0.0, 0.0, -1.5, -1.5, 0.0]


def test_no_rows_at_all():
    sampler, before = begun(perturb(load()))
    made = extend(sampler, pick(before, []), [])
    assert len(made.tokens) == len(made.ids) == 0 and made.completions == []
    assert made.tokens.values.dtype == torch.int64 and made.response_mask.values.dtype == torch.bool


def test_what_cannot_be_extended_is_refused():
    sampler, before = begun(perturb(load()))
    with pytest.raises(DiagnosticError, match=r"RL0605.*no `x`, which an observation has"):
        extend(sampler, before, ["x"] * 10)
    with pytest.raises(DiagnosticError, match=r"RL0608.*4096 positions"):
        extend(sampler, before, TWICE, max_new_tokens=4090)
    # A row that is done needs no room, nor an alphabet.
    extend(sampler, before, ["x"] * 10, torch.ones(10, dtype=torch.bool))
