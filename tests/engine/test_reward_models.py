"""Reward models: the score of the last token, as transformers has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rldsl.backends.engines.model import Model
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import CRITIC, SCRATCH, Rows, load, perturb, quiet

JUDGE = ModelSpec(
    name="judge", kind="reward", source="scratch", source_args=SCRATCH.source_args, copy_of="actor", trainable=False
)


def by_transformers(folder: Path, rows: Rows) -> Tensor:
    """Its own forward of all rows at once, padded on the right."""
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    assert module.config.num_labels == 1
    padded = rows.tokens.padded(module.config.pad_token_id)
    with torch.no_grad():
        scores: Tensor = module(input_ids=padded, attention_mask=rows.tokens.valid().long()).logits[:, 0]
    return scores


def saved(model: Model, folder: Path) -> Path:
    model.save(folder / "model")
    return folder / "model"


# Rows of `Rows.make` hold any token; transformers takes a row's last one to be before a padding token.
@pytest.fixture
def rows() -> Rows:
    made = Rows.make()
    made.tokens.values.clamp_(min=1)
    return made


@pytest.mark.parametrize("built", ["scratch", "loaded"])
def test_scores_are_those_of_transformers(tmp_path: Path, rows: Rows, built: str):
    judge = load(JUDGE) if built == "scratch" else perturb(load(JUDGE))
    folder = saved(judge, tmp_path)
    if built == "loaded":
        judge = load(JUDGE, source=str(folder), source_args={}, copy_of=None)
    found = judge.score(rows.tokens, rows.response_mask)
    assert found.shape == (len(rows),) and found.dtype == torch.float32
    assert found.abs().min() > 0, "a new head must say something"
    assert torch.allclose(found, by_transformers(folder, rows), atol=1e-5)


def test_the_head_is_that_of_the_seed_and_the_trunk_that_of_the_actor():
    body = load().scorer.model.base_model.state_dict()
    first, again, other = load(JUDGE), load(JUDGE), load(JUDGE, source_args={**SCRATCH.source_args, "seed": 4})
    assert all(torch.equal(w, body[n]) for n, w in first.scorer.model.base_model.state_dict().items())
    heads = [m.weights()["score.weight"] for m in (first, again, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert first.optimizer is None


def test_rows_without_a_response_have_a_score(rows: Rows):
    judge = load(JUDGE)
    found = judge.score(rows.tokens, rows.response_mask)
    assert torch.equal(judge.score(rows.tokens, quiet(rows, list(range(12)))), found)
    nothing = torch.tensor([], dtype=torch.int64)
    assert judge.score(rows.tokens.select(nothing), rows.response_mask.select(nothing)).shape == (0,)


def test_a_row_may_be_as_long_as_the_positions(rows: Rows):
    judge = load(JUDGE)
    judge.scorer.max_positions = int(rows.tokens.lengths.max())
    judge.score(rows.tokens, rows.response_mask)
    judge.scorer.max_positions -= 1
    with pytest.raises(DiagnosticError, match="RL0608"):
        judge.score(rows.tokens, rows.response_mask)


def test_bf16_is_near_fp32(rows: Rows):
    exact, rough = (load(JUDGE, precision=p).score(rows.tokens, rows.response_mask) for p in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.02


@pytest.mark.parametrize("other", [SCRATCH, CRITIC], ids=["policy", "critic"])
def test_what_has_no_such_head_is_refused(tmp_path: Path, other: ModelSpec):
    folder = saved(load(other), tmp_path)
    with pytest.raises(DiagnosticError, match=r"RL0602.*`judge`.*no reward model") as caught:
        load(JUDGE, source=str(folder), source_args={})
    assert "another kind of model" in str(caught.value.diagnostics[0].found)


def test_a_classifier_with_two_labels_is_refused(tmp_path: Path):
    folder = saved(load(JUDGE), tmp_path)
    module = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, ignore_mismatched_sizes=True)
    module.save_pretrained(folder)
    with pytest.raises(DiagnosticError, match="RL0602") as caught:
        load(JUDGE, source=str(folder), source_args={})
    assert caught.value.diagnostics[0].found == "a classifier with 2 labels"


def test_an_encoder_is_refused(tmp_path: Path):
    folder = saved(load(JUDGE), tmp_path)
    config = BertConfig(
        vocab_size=17,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(DiagnosticError, match=r"RL0607.*BertForSequenceClassification.*no linear head"):
        load(JUDGE, source=str(folder), source_args={})
