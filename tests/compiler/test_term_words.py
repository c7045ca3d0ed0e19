"""The arithmetic that `explain` shows: it comes to the numbers that were counted, and no large term is without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from rldsl.compiler.cost.activations import Attention, Layer, MicroBatch
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.layer_words import LayerWords, Part, told
from rldsl.compiler.cost.memory import Scoring, Training
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Term
from rldsl.compiler.cost.op_terms import plan_terms
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.cost.term_words import formula_words, forward_words, parameter_words, state_words
from rldsl.compiler.ops import Recompute
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError
from rldsl.render.explain import Explainer
from rldsl.render.origin import Origin

EXAMPLES = Path(__file__).parents[2] / "examples"
GIB = 1 << 30
MODELS = ("SmolLM2-135M", "Qwen2.5-7B", "Qwen3-30B-A3B", "Mixtral-8x7B")
AXES = (Axes(), Axes(dp=8), Axes(dp=2, cp=2), Axes(dp=3, tp=2), Axes(dp=4, pp=2, tp=2))
BARE = re.compile(r"[\d,]+ B")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?!\w)")
LARGE = 0.02


def value(words: str) -> int:
    """What a sum of products in words comes to."""
    signs = re.split(r" ([+-]) ", f"+ {words}"[2:])
    parts = zip(["+", *signs[1::2]], signs[::2], strict=True)
    return sum((-1 if s == "-" else 1) * prod(int(n.replace(",", "")) for n in NUMBER.findall(p)) for s, p in parts)


def layers() -> Iterator[tuple[Layer, States]]:
    micro = MicroBatch(packs=3, length=512, states=700, cells=900)
    for name in MODELS:
        for axes in AXES:
            for lora in (None, Lora(rank=16)):
                shard = Shard(facts=shipped_models()[name], axes=axes, lora=lora)
                states = States(shard=shard)
                for attention in Attention:
                    made = Training(states=states, micro=micro, attention=attention)
                    yield from ((made.layer(moe), states) for moe in shard.kinds)


def test_a_sum_that_does_not_come_out_is_not_told() -> None:
    parts = (Part("keys", ((2, ""), (3, "places"))), Part("gone", ((1, "B"),), less=True), Part("none", ((0, "B"),)))
    assert told(parts, 5) == "keys 2 x 3 places - gone 1 B" and told(parts, 6) == ""
    assert value(told(parts, 5)) == 5


@pytest.mark.parametrize("recompute", Recompute)
def test_what_layers_keep_comes_out(recompute: Recompute) -> None:
    for layer, _ in layers():
        words = LayerWords(layer).kept(recompute)
        assert set(words) == set(layer.kept_parts(recompute).values())
        for size, text in words.items():
            assert value(text) == size, f"{size}: {text}"


@pytest.mark.parametrize("recompute", Recompute)
def test_a_layers_own_passes_come_out(recompute: Recompute) -> None:
    for layer, _ in layers():
        words = LayerWords(layer)
        text = words.backward(recompute)
        again, beside = layer.made_again(recompute), re.split(r"(?:MLP|end): ", text)[-1]
        assert text and value(beside) == layer.backward, text
        assert (f"made again {again:,} B" in text) == (again > 0)
        assert value(words.forward) == layer.forward, words.forward


def test_padding_is_named() -> None:
    """161,064 rows of SmolLM2's tensors do not divide over 7 ranks."""
    facts = shipped_models()["SmolLM2-135M"]
    even, odd = (States(shard=Shard(facts=facts, axes=Axes(dp=n))) for n in (1, 7))
    assert parameter_words(even, even.base) == ""
    text = parameter_words(odd, odd.base)
    own, more = (int(n.replace(",", "")) for n in NUMBER.findall(text)[:2])
    assert (own, own + more) == (facts.parameters, odd.base) and "of padding" in text and "7 ranks" in text
    cut = States(shard=Shard(facts=facts, axes=Axes(tp=3)))
    assert f"this rank's part of {facts.parameters:,} (tp = 3" in state_words(cut)[f"{cut.base:,} parameters"]


def test_words_stand_behind_the_numbers_they_are_of() -> None:
    def formula(text: str) -> str:
        return formula_words(Term(category=Category.WEIGHTS, what="x", bytes=1, formula=text), words)

    words = {"6 B": "2 x 3 B", "12 parameters": "3 x 4"}
    assert formula("6 B") == "6 B = 2 x 3 B"
    assert formula("28 layers x 6 B") == "28 layers x 6 B; 6 B = 2 x 3 B"
    assert formula("4 B x 12 parameters / 8 ranks") == "4 B x 12 parameters / 8 ranks; 12 parameters = 3 x 4"
    assert formula("2 B x 5 parameters") == "2 B x 5 parameters"


VLLM = "actor.generate : vllm(tp = 4)"
CLUSTERS = {
    "7B": ("Qwen/Qwen2.5-7B", "8 x h100", ()),
    "7B by Megatron": ("Qwen/Qwen2.5-7B", "16 x h100", ("actor.train : megatron(tp = 2)", VLLM)),
    "30B-A3B": ("Qwen/Qwen3-30B-A3B", "32 x h100", (VLLM,)),
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.rl")), ids=lambda p: p.stem)
def test_terms_of_the_examples_add_up(path: Path) -> None:
    """With room for all, and where that fits with little; the reward model of one example is not at hand."""
    for budget in (64, 4):
        try:
            plan = compile_file(path, Options(cluster="1 x cpu", memory=budget * GIB)).plan
        except DiagnosticError as error:
            assert {d.code for d in error.diagnostics} == {"RL0810"} and budget == 4
            continue
        assert (plan.memory is None) == (path.stem == "ppo_reward_model")
        if plan.memory is not None:
            adds_up(plan)


@pytest.mark.parametrize("name", CLUSTERS)
def test_terms_of_large_models_add_up(name: str) -> None:
    model, cluster, layouts = CLUSTERS[name]
    settings = (f"model={model}", "batch=64", "group=8")
    adds_up(compile_file(EXAMPLES / "grpo.rl", Options(settings=settings, cluster=cluster, layouts=layouts)).plan)


def adds_up(plan: Plan) -> None:
    """All ops of all programs; and no large term is a bare number."""
    terms = plan_terms(plan)
    assert terms is not None and plan.memory is not None
    several = [each for op in plan.ops() for each in terms.of(op.id)]
    assert len(several) == len(plan.memory.ops) > 0
    ops = {op.id: op for op in plan.ops()}
    for each in several:
        assert each.agrees, each.said.op
        own = terms.words(ops[each.said.op])
        for term in each.own:
            bare = BARE.fullmatch(formula_words(term, own)) is not None and term.what != "fields of the batch"
            whole = each.said.workspace + each.said.resident
            assert not bare or term.bytes < LARGE * whole, f"{each.said.op}: {term.what}: {term.formula}"


def test_explain_names_sources_parts_and_rates() -> None:
    settings = ("model=Qwen/Qwen2.5-7B", "batch=56", "minibatch=56")
    plan = compile_file(EXAMPLES / "ppo.rl", Options(settings=settings, cluster="7 x h100")).plan
    (page,) = Explainer(plan, Origin(plan, terms=plan_terms(plan))).pages("actor_update")
    text = str(page)
    for said in (
        "7,615,616,512 parameters, by Qwen2.5-7B.json, shipped with rldsl",
        "of padding: FSDP cuts tensors by rows, and 7 ranks do not divide them",
        "places x 18,944 wide x 2 B",
        "set aside: ",
        "CUDA context 550 MiB",
        "13.05 GFLOP forward in the layers",
        "989 TFLOP/s in bf16 x ",
    ):
        assert said in text, said
    # Where the time model has other seconds than the plan, their parts are not told.
    assert plan.memory is not None
    slower = {name: 2 * s for name, s in plan.memory.seconds.items()}
    other = changed(plan, memory=changed(plan.memory, seconds=slower))
    (page,) = Explainer(other, Origin(other, terms=plan_terms(other))).pages("actor_update")
    parts = re.compile(r"passes [\d.]+ s \+ optimizer")
    assert parts.search(text) and not parts.search(str(page)) and "GFLOP" in str(page)


def test_the_parts_of_a_scoring_are_told() -> None:
    shard = Shard(facts=shipped_models()["Qwen2.5-7B"], axes=Axes(dp=8))
    micro = MicroBatch(packs=8, length=1024, states=5000, cells=9000)
    made = Scoring(states=States(shard=shard, trained=False), micro=micro)
    words = forward_words(made)
    for term in made.footprint.moments[-1].terms:
        if BARE.fullmatch(term.formula):
            assert term.formula in words, term.what
