"""Generation: what it returns is what the model says, whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rldsl.backends.engines import draw as drawing
from rldsl.backends.engines import generate, sources
from rldsl.backends.engines.cache import DecodeCache
from rldsl.backends.engines.draw import draw
from rldsl.backends.engines.generate import Sampler, Samples
from rldsl.backends.engines.module import Scorer
from rldsl.compiler.ops import GenerateOp
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import DiagnosticError
from tests.engine.tiny import load, perturb

SCRATCH_SEEDLESS = ModelSpec(name="m", kind="policy", source="scratch", source_args={"hidden": 8, "layers": 1})
PROMPTS = ["1+2=", "12+34=", "1+2=", "7", "9+9+9="]


def op(**changes: object) -> GenerateOp:
    fields: dict[str, object] = {
        "id": "rollout",
        "model": "actor",
        "prompts": "prompts",
        "n": 3,
        "max_new_tokens": 12,
        "temperature": 1.0,
        "outputs": {},
    }
    return GenerateOp(**{**fields, **changes})


def sample(prompts: list[str] = PROMPTS, ids: list[int] | None = None, *, step: int = 0, **changes: object) -> Samples:
    sampler = Sampler(perturb(load()), seed=11)
    numbers = torch.tensor(range(len(prompts)) if ids is None else ids)
    return sampler.generate(prompts, numbers, op(**changes), step=step)


def sample_of(sampler: Sampler) -> list[list[int]]:
    return responses(sampler.generate(PROMPTS, torch.arange(len(PROMPTS)), op(), step=0))


def responses(made: Samples) -> list[list[int]]:
    return [t[m].tolist() for t, m in zip(made.tokens.rows(), made.response_mask.rows(), strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_log_probs_are_those_of_a_later_forward(temperature: float):
    made = sample(temperature=temperature)
    model = perturb(load())
    again = model.logprob(made.tokens, made.response_mask, temperature=temperature)
    assert torch.allclose(made.rollout_logp.values, again.values, atol=1e-4)
    assert made.rollout_logp.values[made.response_mask.values].max() < 0


def test_responses_end_with_the_end_token_or_at_the_limit():
    made = sample(n=8)
    eos = load().tokenizer.eos_token_id
    lengths = [len(r) for r in responses(made)]
    assert min(lengths) < 12 == max(lengths), "the seed should give both kinds"
    for each in responses(made):
        assert eos not in each[:-1]
        assert each[-1] == eos or len(each) == 12
    assert made.ids.tolist() == list(range(40))
    assert len(made.completions) == 40


def test_samples_do_not_depend_on_the_batch():
    together = responses(sample())
    alone = [r for i, p in enumerate(PROMPTS) for r in responses(sample([p], [i]))]
    assert together == alone
    back = responses(sample(PROMPTS[::-1], [4, 3, 2, 1, 0]))
    assert [back[3 * (4 - i) : 3 * (4 - i) + 3] for i in range(5)] == [together[3 * i : 3 * i + 3] for i in range(5)]


def test_waves_and_compaction_change_nothing(monkeypatch: pytest.MonkeyPatch):
    together = responses(sample())
    monkeypatch.setattr(generate, "KV_BYTES", 1)
    monkeypatch.setattr(generate, "COMPACT_BELOW", 0.0)
    assert responses(sample()) == together


@pytest.mark.parametrize("head_dim", [4, 64])
def test_a_wave_has_no_more_keys_and_values_than_it_may(monkeypatch: pytest.MonkeyPatch, head_dim: int):
    """Whatever a head's width has to do with the model's: six rows of 20 columns have room here."""
    room = 6 * 20 * 2 * 2 * (2 * head_dim) * 4
    made: list[int] = []
    fill = DecodeCache.fill

    def filled(self: DecodeCache, *args: Any) -> None:
        fill(self, *args)
        made.append(sum(t.nbytes for t in (*self._keys, *self._values)))

    monkeypatch.setattr(DecodeCache, "fill", filled)
    monkeypatch.setattr(generate, "KV_BYTES", room)
    sampler = Sampler(load(), seed=11)
    config = LlamaConfig(
        vocab_size=17,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=head_dim,
    )
    sampler.scorer = Scorer(LlamaForCausalLM(config), kind="policy", name="actor")
    sampler.generate(["1+2="] * 6, torch.arange(6), op(max_new_tokens=15), step=0)
    assert len(made) == 3 and max(made) <= room


def test_steps_and_samples_differ():
    first = responses(sample())
    assert responses(sample()) == first
    assert responses(sample(step=1)) != first
    assert len({tuple(r) for r in responses(sample(["1+2="], n=8))}) > 1


def test_two_rollouts_of_a_step_draw_independently():
    first = responses(sample(id="rollout"))
    assert responses(sample(id="rollout:again", node="rollout")) == first, "a rollout is known by its node"
    assert responses(sample(id="other")) != first
    assert responses(sample(id="rollout", node="other")) != first


def test_prompts_of_sample_rows_keep_their_ids():
    ids = [40, 3, 2**40, 7, 8]
    made = sample(ids=ids, n=1)
    assert made.ids.tolist() == ids
    alone = sample([PROMPTS[2]], [2**40], n=1)
    assert responses(made)[2] == responses(alone)[0]


def test_a_sampler_of_staleness_1_has_the_weights_of_its_last_sync():
    model, then = perturb(load()), perturb(load())
    stale, fresh = Sampler(model, seed=11, staleness=1), Sampler(model, seed=11)
    perturb(model, seed=6)
    now, before = sample_of(Sampler(model, seed=11)), sample_of(Sampler(then, seed=11))
    assert now != before
    assert sample_of(stale) == before
    assert sample_of(fresh) == now
    stale.sync(model)
    perturb(model, seed=7)
    assert sample_of(stale) == now


def test_no_prompts_at_all():
    made = sample([])
    assert len(made.tokens) == len(made.ids) == 0 and made.completions == []


@pytest.mark.parametrize("seed", [2**63, 10**30, -5])
def test_any_seed_will_do(seed: int):
    draws = drawing.uniforms(seed, "rollout", 0, torch.tensor([0, 1]), 4)
    assert draws.shape == (2, 4)
    made = sources.load(SCRATCH_SEEDLESS, seed=seed).module.state_dict()
    again = sources.load(SCRATCH_SEEDLESS, seed=seed).module.state_dict()
    assert all(torch.equal(w, again[n]) for n, w in made.items())


def test_greedy_equals_hugging_face_generate():
    made = responses(sample(temperature=0.0, n=1))
    model = perturb(load())
    module, tokenizer = model.scorer.model, model.tokenizer
    module.config._attn_implementation = "eager"
    for prompt, found in zip(PROMPTS, made, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
        want = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        assert found == want[0, ids.shape[1] :].tolist()


def test_sampling_follows_the_distribution():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(20_000, 1)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logp = draw(logits, uniform, op())
    assert (token.bincount(minlength=4) / 20_000).tolist() == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=0.015)
    assert torch.allclose(logp, logits[0][token], atol=1e-6)
    # Temperature 0.5 squares the odds.
    token, _ = draw(logits, uniform, op(temperature=0.5))
    assert (token.bincount(minlength=4) / 20_000).tolist() == pytest.approx(
        [1 / 30, 16 / 30, 4 / 30, 9 / 30], abs=0.015
    )


def test_top_k_and_top_p_cut_the_tail_but_not_the_log_probs():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(1000, 1)
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    token, logp = draw(logits, uniform, op(top_k=2))
    assert token.unique().tolist() == [1, 3]
    assert torch.allclose(logp, logits[0][token], atol=1e-6)
    assert draw(logits, uniform, op(top_p=0.65))[0].unique().tolist() == [1, 3]
    assert draw(logits, uniform, op(top_p=0.75))[0].unique().tolist() == [1, 2, 3]
    assert draw(logits, uniform, op(top_p=0.05))[0].unique().tolist() == [1]


def test_a_character_outside_the_alphabet_is_refused():
    with pytest.raises(DiagnosticError, match=r"RL0605.*alphabet has no `x`"):
        sample(["1+x="])


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(DiagnosticError, match=r"RL0608.*4096 positions"):
        sample(["1+2="], max_new_tokens=5000)


def test_a_chat_template_makes_the_prompt_a_users_message():
    model = load()
    model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}+{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    made = Sampler(model, seed=0).generate(["12"], torch.tensor([0]), op(n=1), step=0)
    tokens, mask = made.tokens.rows()[0], made.response_mask.rows()[0]
    assert model.tokenizer.decode(tokens[~mask]) == "12+="


def test_the_inverse_in_blocks_is_the_inverse():
    g = torch.Generator().manual_seed(0)
    for vocabulary in (3, 256, 1000):
        weights = torch.rand(200, vocabulary, generator=g).square()
        weights[:, ::3] = 0.0
        uniform = torch.rand(200, dtype=torch.float64, generator=g)
        uniform[0], uniform[1] = 0.0, 1.0 - 2**-53
        below = weights.double().cumsum(-1)
        want = (below <= uniform[:, None] * below[:, -1:]).sum(-1)
        found = drawing._inverse(weights, uniform)
        assert torch.equal(found, want)
        assert weights[torch.arange(200), found].min() > 0


def test_a_prompt_above_the_limit_ends_the_run_and_is_named():
    limit = max(len(row) for row in sample(max_new_tokens=1, n=1).tokens.rows()) - 1
    assert len(sample(max_prompt_tokens=limit).completions) == 3 * len(PROMPTS)
    with pytest.raises(DiagnosticError, match=rf"RL0612.*prompt 5 has {limit} tokens, over the limit of {limit - 1}"):
        sample(ids=[4, 5, 6, 7, 8], max_prompt_tokens=limit - 1)
