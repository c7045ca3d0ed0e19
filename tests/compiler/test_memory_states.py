"""What a rank holds between ops, beside counts by hand from the figures of config.json, in float64."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.layouts import Layout, all_layouts, outcome
from bench.memory_cases import config_of
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.memory_generation import handing_over, saving
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Term
from rldsl.compiler.cost.shard import Lora, Shard
from rldsl.compiler.ops import State
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.diagnostics import DiagnosticError

GRPO = Path(__file__).parents[2] / "examples" / "grpo.rl"
SEVEN, MOE = "Qwen2.5-7B", "Qwen3-30B-A3B"
RANK = 16
# Each of at most three terms, of dense weights and of experts, is rounded up to a byte.
ROUNDED = 8.0


class Numbers(NamedTuple):
    """Of one rank, as tp, pp and ep have left them: all but experts, experts, adapters."""

    dense: float
    experts: float
    adapters: float


def by_hand(model: str, tp: float = 1, pp: float = 1, ep: float = 1, split: float = 1) -> Numbers:
    """Of the first stage: `split` ranks have one expert, and `ep` sets of experts are on different ranks."""
    c = config_of(model)
    hidden, heads, keys = float(c["hidden_size"]), c["num_attention_heads"], max(c["num_key_value_heads"] / tp, 1)
    width = c.get("head_dim") or hidden / heads
    queries, biases = heads * width / tp, 0.0 if model == MOE else 1.0
    attention = 2 * hidden * queries + 2 * hidden * keys * width + biases * (queries + 2 * keys * width)
    norms = 2 * hidden + (2 * width if model == MOE else 0)
    adapters = 2 * RANK * (hidden + queries) + 2 * RANK * (hidden + keys * width)
    if model == MOE:
        mlp = c["num_experts"] * hidden  # the router, whole on each rank
        experts = 3 * hidden * c["moe_intermediate_size"] * c["num_experts"] / (ep * split)
    else:
        mlp, experts = 3 * hidden * c["intermediate_size"] / tp, 0.0
        adapters += 3 * RANK * (hidden + c["intermediate_size"] / tp)
    words = c["vocab_size"] / tp * hidden
    layers = c["num_hidden_layers"] / pp
    ends = words if pp > 1 else 2 * words + hidden
    return Numbers(layers * (attention + norms + mlp) + ends, layers * experts, layers * adapters)


class Held(NamedTuple):
    """Bytes of weights and masters, of Adam's moments, of gradients."""

    weights: float
    optimizer: float
    gradients: float


def expected(n: Numbers, kind: str, zero: int, width: float, ranks: float, copies: float) -> Held:
    """`ranks` share what is not of experts, `copies` what is: the tables of arXiv 1910.02054, with float32 masters."""
    whole, share = n.dense + n.experts, n.dense / ranks + n.experts / copies
    alone = ranks == 1
    if kind == "frozen":
        return Held(width * (whole if zero == 1 else share), 0, 0)
    base = 0.0
    if kind == "lora":
        base = width * (whole if zero == 1 else share)
        whole, share = n.adapters, n.adapters / ranks
    if alone or zero == 1:
        masters = 4 * share if width == 2 else 0
        return Held(base + width * whole + masters, 8 * share, 4 * whole)
    return Held(base + 4 * share, 8 * share, 4 * share)


def made(states: States) -> Held:
    def of(category: Category, terms: tuple[Term, ...]) -> float:
        return float(sum(t.bytes for t in terms if t.category is category))

    everything = (*states.resident, *states.gradients)
    return Held(*(of(c, everything) for c in (Category.WEIGHTS, Category.OPTIMIZER, Category.GRADIENTS)))


def states(model: str, axes: Axes, kind: str = "full", **others: Any) -> States:
    lora = Lora(rank=RANK) if kind == "lora" else None
    shard = Shard(facts=shipped_models()[model], axes=axes, lora=lora)
    return States(shard=shard, trained=kind != "frozen", **others)


# Of each layout: over how many ranks one expert is split, and how many have the same experts.
LAYOUTS = [
    (SEVEN, Axes(), 1, 1),
    (SEVEN, Axes(dp=8), 1, 8),
    (SEVEN, Axes(dp=4, cp=2), 1, 8),
    (SEVEN, Axes(tp=4), 4, 1),
    (SEVEN, Axes(dp=2, tp=4, pp=4, cp=4), 4, 8),
    (MOE, Axes(dp=16), 1, 16),
    (MOE, Axes(dp=16, ep=4), 1, 4),
    (MOE, Axes(dp=16, ep=16), 1, 1),
    (MOE, Axes(dp=4, tp=2, cp=2, pp=2, ep=4), 2, 2),
    (MOE, Axes(tp=4, ep=4), 1, 1),
    (MOE, Axes(dp=2, tp=4, ep=4), 2, 1),
    (MOE, Axes(dp=2, tp=4, ep=8), 1, 1),
]


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize(("model", "axes", "split", "copies"), LAYOUTS, ids=str)
def test_each_stage_of_zero_holds_what_it_holds_by_hand(
    model: str, axes: Axes, split: int, copies: int, zero: int, kind: str, width: int
) -> None:
    numbers = by_hand(model, tp=axes.tp, pp=axes.pp, ep=axes.ep, split=split)
    hand = expected(numbers, kind, zero, width, ranks=axes.dp * axes.cp, copies=copies)
    assert made(states(model, axes, kind, zero=zero, width=width)) == pytest.approx(hand, abs=ROUNDED)


@pytest.mark.parametrize("ranks", [64, 256, 1024, 8192])
def test_under_zero_one_gradients_do_not_grow_with_ranks(ranks: int) -> None:
    found = made(states(MOE, Axes(dp=ranks, ep=8), zero=1))
    # Of 30.5 billion parameters 28.99 are of experts, of which a rank has an eighth.
    assert found.gradients == pytest.approx(4 * 5.166e9, rel=1e-3)
    assert found.optimizer == pytest.approx(8 * 30.53e9 / ranks, rel=1e-3)


def test_fsdp_pads_the_rows_of_each_tensor_and_zero_one_a_flat_buffer() -> None:
    small = {zero: made(states("SmolLM2-135M", Axes(dp=1024), zero=zero)).optimizer for zero in (1, 3)}
    assert small[1] == pytest.approx(8 * 134_515_008 / 1024, abs=ROUNDED)
    assert small[3] > 1.1 * small[1]


sizes = st.sampled_from([1, 2, 3, 4, 6, 8])


@given(dp=sizes, tp=sizes, cp=sizes, data=st.data())
def test_sets_of_experts_their_splits_and_their_copies_are_all_ranks(dp: int, tp: int, cp: int, data: Any) -> None:
    ranks = dp * tp * cp
    ep = data.draw(st.sampled_from([n for n in range(1, ranks + 1) if ranks % n == 0]))
    axes = Axes(dp=dp, tp=tp, cp=cp, ep=ep)
    assert axes.ep * axes.expert_tp * axes.expert_copies == ranks
    assert axes.expert_tp <= tp
    # Ranks of tp are taken only where those of dp and cp are too few.
    assert axes.expert_tp == tp or (dp * cp) % ep


# Weights that are handed over or saved: what comes together, beside what stays.


def passing(footprint: Footprint) -> float:
    return float(sum(t.bytes for t in footprint.peak.terms if t.category is Category.COMMUNICATION))


def test_megatrons_weights_are_put_together_from_tp_alone() -> None:
    words, largest = 152_064 * 3584, 18_944 * 3584
    shards = states(SEVEN, Axes(dp=8), zero=3), states(SEVEN, Axes(dp=8), zero=1)
    # FSDP gathers float32 and casts it; a rank of ZeRO-1 has the weights to compute with.
    assert [passing(handing_over(s)) for s in shards] == [6 * words + 4 * largest, 0]
    assert passing(handing_over(states(SEVEN, Axes(dp=2, tp=4), zero=1))) == 2 * (words + largest)
    # A file has float32: masters, which are spread over the ranks.
    assert passing(saving(states(SEVEN, Axes(dp=8), zero=1))) == 4 * (words + largest)
    assert passing(saving(states(SEVEN, Axes(), zero=1))) == 0


# Plans.


def bytes_of(model: str, state: State, *layouts: str, ranks: int) -> int:
    settings = (f"model=Qwen/{MOE}", f"batch={ranks}", "kl_coef=0.1")
    options = Options(settings=settings, cluster=f"{ranks} x h100", layouts=layouts)
    memory = compile_file(GRPO, options).plan.memory
    assert memory is not None
    return next(s.bytes for s in memory.states if (s.model, s.state) == (model, state))


def test_a_frozen_model_under_megatron_is_whole_on_each_rank() -> None:
    layouts = "actor.train : megatron(ep = 8)", "reference.infer : megatron(ep = 8)", "actor.generate : vllm(tp = 4)"
    numbers = by_hand(MOE, ep=8)
    whole = 2 * (numbers.dense + numbers.experts)
    assert bytes_of("reference", State.WEIGHTS, *layouts, ranks=256) == pytest.approx(whole, abs=ROUNDED)


@pytest.mark.parametrize(("axes", "tp", "split", "ep"), [("tp = 4, ep = 4", 4, 1, 4), ("tp = 2, ep = 8", 2, 1, 8)])
def test_rollouts_that_spread_experts_do_not_split_them_too(axes: str, tp: int, split: int, ep: int) -> None:
    numbers = by_hand(MOE, tp=tp, ep=ep, split=split)
    found = bytes_of("actor", State.ENGINE, f"actor.generate : vllm({axes})", ranks=16)
    assert found == pytest.approx(2 * (numbers.dense + numbers.experts), abs=ROUNDED)


def test_base_weights_of_adapters_under_megatron_are_whole_on_each_rank(tmp_path: Path) -> None:
    text = GRPO.read_text().replace("hf(model; precision)", "hf(model; precision) with lora_rank = 32")
    (tmp_path / "lora.rl").write_text(text)
    options = Options(
        settings=("model=Qwen/Qwen2.5-72B", "batch=8"),
        cluster="8 x h100",
        layouts=("actor.train : megatron()", "actor.generate : vllm(tp = 8)"),
    )
    with pytest.raises(DiagnosticError) as caught:
        compile_file(tmp_path / "lora.rl", options)
    assert [d.code for d in caught.value.diagnostics] == ["RL0810"]


@pytest.mark.parametrize("axes", [(8, 8), (4, 4), (2, 8), (2, 4)])
def test_more_sets_of_experts_than_ranks_of_dp_take_ranks_of_tp(axes: tuple[int, int]) -> None:
    tp, ep = axes
    assert outcome(Layout(f"Qwen/{MOE}", 8, "megatron", "vllm", tp, 1, 1, ep)) in ("compiles", "RL0810")


def test_any_layout_compiles_or_is_refused() -> None:
    drawn = random.Random(5).sample(list(all_layouts()), 60)
    found = [outcome(layout) for layout in drawn]
    assert {"compiles", "RL0506", "RL0813"} <= set(found) <= {"compiles", "RL0506", "RL0810", "RL0811", "RL0813"}
