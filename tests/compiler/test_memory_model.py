"""The memory model: counts by hand, what must grow with what, and the modules themselves on tensors without data."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoConfig, AutoModelForCausalLM

from bench import memory_real
from bench.memory_cases import Case, Wave, config_of, estimate
from bench.memory_oracle import measure
from bench.memory_tracker import Alive
from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import generate, heads, packing, score
from rldsl.compiler.cost.activations import Attention, Logits, MicroBatch, Recompute
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.memory import ENGINE_CHUNK, Scoring, Training
from rldsl.compiler.cost.memory_generation import ENGINE_KV, Generating, handing_over, saving
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Category, Footprint, Origin, Term
from rldsl.compiler.cost.model_facts import Head
from rldsl.compiler.cost.packing import CPU_PLACES, CUDA_PLACES, PACK_PLACES, largest_micro_batch
from rldsl.compiler.cost.reserve import (
    CUDA_CONTEXT,
    LIBRARIES,
    NCCL_FIRST,
    NCCL_NEXT,
    SHARDED_LAYER,
    TOKENIZER,
    process,
    reserved,
)
from rldsl.compiler.cost.shard import Lora, Shard

SEVEN = shipped_models()["Qwen2.5-7B"]
MOE = shipped_models()["Qwen3-30B-A3B"]
P = 7_615_616_512
MICRO = MicroBatch(packs=2, length=2048, states=1024, cells=4096)


def states(**others: Any) -> States:
    axes = others.pop("axes", Axes(dp=8))
    shard = Shard(
        facts=others.pop("facts", SEVEN), axes=axes, lora=others.pop("lora", None), stage=others.pop("stage", 0)
    )
    return States(shard=shard, **others)


def training(**others: Any) -> Training:
    held = {k: others.pop(k) for k in ("axes", "facts", "lora", "width", "zero", "stage") if k in others}
    return Training(states=states(**held), **{"micro": MICRO, "attention": Attention.CAUSAL, **others})


def held(terms: tuple[Term, ...], category: Category) -> int:
    return sum(t.bytes for t in terms if t.category is category)


# Counts by hand.


def test_fully_sharded_training_keeps_twelve_bytes_a_parameter_and_four_more_of_gradients() -> None:
    made = states()
    assert held(made.resident, Category.WEIGHTS) == 4 * P // 8
    assert held(made.resident, Category.OPTIMIZER) == 8 * P // 8
    assert held(made.gradients, Category.GRADIENTS) == 4 * P // 8


def test_one_rank_in_bfloat16_keeps_eighteen_bytes_a_parameter() -> None:
    made = states(axes=Axes())
    assert sum(t.bytes for t in made.resident) == (2 + 4 + 4 + 8) * P
    assert made.gradients == ()


def test_one_rank_in_float32_keeps_twelve_and_its_gradients() -> None:
    made = states(axes=Axes(), width=4)
    assert sum(t.bytes for t in (*made.resident, *made.gradients)) == (4 + 8 + 4) * P


def test_a_frozen_model_keeps_its_weights_in_the_computations_precision() -> None:
    assert [t.bytes for t in states(trained=False).resident] == [2 * P // 8]


def test_adapters_are_counted_beside_every_matrix_of_a_layer() -> None:
    made = states(lora=Lora(rank=16), axes=Axes(dp=2))
    # q, o: 3584 + 3584; k, v: 3584 + 512; gate, up, down: 3584 + 18944; 28 layers.
    numbers = 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert held(made.resident, Category.WEIGHTS) == 2 * P // 2 + 4 * numbers // 2
    assert held(made.resident, Category.OPTIMIZER) == 8 * numbers // 2
    assert held(made.gradients, Category.GRADIENTS) == 4 * numbers // 2


def test_chosen_adapters_are_counted_alone() -> None:
    made = states(lora=Lora(rank=8, targets=frozenset({"q_proj"})), axes=Axes())
    assert made.trainable == 28 * 8 * (3584 + 3584)


def test_zero_one_keeps_weights_and_gradients_whole() -> None:
    made = states(zero=1)
    assert held(made.resident, Category.WEIGHTS) == 2 * P + 4 * P // 8
    assert held(made.resident, Category.OPTIMIZER) == 8 * P // 8
    assert held(made.gradients, Category.GRADIENTS) == 4 * P


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_an_uncut_shard_has_all_parameters(name: str) -> None:
    facts = shipped_models()[name]
    assert Shard(facts=facts).parameters == facts.parameters


@pytest.mark.parametrize("head", [Head.VALUE, Head.SCORE])
def test_other_heads_are_counted_as_facts_count_them(head: Head) -> None:
    facts = read_config(config_of("Qwen2.5-7B"), head=head)
    assert Shard(facts=facts).parameters == facts.parameters


def test_tp_cuts_every_matrix_and_no_norm() -> None:
    whole, half = (Shard(facts=SEVEN, axes=Axes(tp=tp)) for tp in (1, 2))
    norms = 28 * 2 * 3584 + 3584 + 28 * 3584  # the two of a layer, the last one; no bias of o_proj or down_proj here
    uncut = 28 * 2 * 3584 + 3584
    assert norms - uncut == 28 * 3584
    assert 2 * half.parameters - whole.parameters == uncut


def test_stages_of_a_pipeline_have_all_parameters_between_them() -> None:
    stages = [Shard(facts=SEVEN, axes=Axes(pp=4), stage=s) for s in range(4)]
    assert sum(s.parameters for s in stages) == P
    assert [s.layers for s in stages] == [7, 7, 7, 7]


def test_ep_gives_a_rank_fewer_experts_and_fsdp_fewer_ranks_to_share_them() -> None:
    whole, spread = states(facts=MOE, axes=Axes(dp=16)), states(facts=MOE, axes=Axes(dp=16, ep=4))
    assert spread.layer(True) < whole.layer(True) / 3
    assert sum(t.bytes for t in spread.resident) == sum(t.bytes for t in whole.resident)


def test_a_key_head_is_not_cut() -> None:
    assert Shard(facts=SEVEN, axes=Axes(tp=7)).kv_heads == 1


def test_rows_are_padded_for_ranks_that_do_not_divide_them() -> None:
    small = states(facts=shipped_models()["SmolLM2-135M"], axes=Axes(dp=1024))
    # Queries and output: 576 rows become 1,024; keys and values: 192 do; gate and up: 1,536 become 2,048, down 576.
    padded = 1024 * 576 * 4 + 2 * 2048 * 576 + 1024 * 1536 + 2 * 1024
    assert small.layer(False) == padded


# What must hold of every estimate.


def test_a_peak_is_the_greatest_moment_and_the_sum_of_its_terms() -> None:
    made = training().footprint
    assert made.bytes == max(m.bytes for m in made.moments) == sum(t.bytes for t in made.peak.terms)
    assert sum(made.peak.by_category().values()) == made.bytes
    assert made.resident_bytes < made.bytes


def test_terms_tell_their_arithmetic() -> None:
    weights = next(t for t in training().footprint.peak.terms if t.category is Category.WEIGHTS)
    assert weights.formula == "4 B x 7,615,616,512 parameters / 8 ranks"
    assert weights.origin is Origin.FORMULA


lengths = st.integers(1, 16).map(lambda n: 256 * n)
micro_batches = st.builds(
    lambda packs, length, part: MicroBatch(
        packs=packs, length=length, states=packs * length * part // 4, cells=packs * length
    ),
    st.integers(1, 8),
    lengths,
    st.integers(1, 4),
)
plans = st.fixed_dictionaries(
    {
        "facts": st.sampled_from([SEVEN, MOE]),
        "axes": st.builds(
            lambda dp, tp, pp, cp: Axes(dp=2**dp, tp=2**tp, pp=2**pp, cp=2**cp),
            *(st.integers(0, n) for n in (10, 2, 2, 2)),
        ),
        "micro": micro_batches,
        "recompute": st.sampled_from(Recompute),
        "logits": st.sampled_from(Logits),
        "attention": st.sampled_from(Attention),
        "width": st.sampled_from([2, 4]),
    }
)


@given(plans)
@settings(deadline=None)
def test_more_work_never_takes_less(plan: dict[str, Any]) -> None:
    micro = plan["micro"]
    base = training(**plan).footprint.bytes
    for more in (
        replace(micro, packs=micro.packs + 1),
        replace(micro, length=micro.length + 256),
        replace(micro, states=micro.states + 64),
        replace(micro, cells=micro.cells + 64),
    ):
        assert training(**{**plan, "micro": more}).footprint.bytes >= base


@given(plans)
@settings(deadline=None)
def test_more_ranks_never_take_more(plan: dict[str, Any]) -> None:
    axes: Axes = plan["axes"]
    if axes.shards == 1 or axes.shards > 32:
        # From one rank to two FSDP's buffers come in; beyond 64 the padding of few rows does.
        return
    wider = replace(axes, dp=2 * axes.dp)
    assert training(**{**plan, "axes": wider}).footprint.bytes <= training(**plan).footprint.bytes


@given(plans)
@settings(deadline=None)
def test_recomputation_and_pieces_never_take_more(plan: dict[str, Any]) -> None:
    def with_(**changes: Any) -> int:
        return training(**{**plan, **changes}).footprint.bytes

    none, selective, full = (with_(recompute=r) for r in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL))
    layers = training(**plan).shard.layers
    assert selective <= none or layers < 4
    assert full <= selective or layers < 4
    whole, positions, chunked = (with_(logits=way) for way in (Logits.WHOLE, Logits.POSITIONS, Logits.CHUNKED))
    # Pieces sum the head's gradient in float32, which whole logits do not.
    head = 8 * training(**plan).shard.head_parameters
    assert positions <= whole + head
    assert chunked <= positions + head


def test_a_mask_grows_with_the_square_and_causal_attention_does_not() -> None:
    def of(length: int, attention: Attention) -> int:
        micro = MicroBatch(packs=1, length=length, states=1, cells=length)
        return Scoring(states=states(trained=False), micro=micro, attention=attention).footprint.bytes

    assert of(65536, Attention.MASKED) - of(65536, Attention.CAUSAL) > 65536**2 * 2 * 7
    assert of(131072, Attention.CAUSAL) < 2.1 * of(65536, Attention.CAUSAL)


def test_inputs_of_layers_are_spread_over_the_ranks_of_tp() -> None:
    # 72B, rows of 64K, tp = 8, pp = 4: four micro-batches in flight of 20 layers, 2 B x 65,535 x 8,192 / 8 each.
    micro = MicroBatch(packs=1, length=65_535, states=64_512, cells=65_536)
    plan = {"facts": shipped_models()["Qwen2.5-72B"], "axes": Axes(tp=8, pp=4), "zero": 1, "micro": micro}
    made = training(**plan, recompute=Recompute.FULL).footprint
    inputs = sum(t.bytes for t in made.moments[1].terms if t.what == "kept: inputs of layers")
    assert inputs == pytest.approx(4 * 20 * 2 * 65_535 * 8_192 / 8, rel=1e-4)


def test_the_first_stage_of_a_pipeline_holds_most_micro_batches() -> None:
    first, second = (training(axes=Axes(dp=8, pp=4), stage=s) for s in (0, 1))
    assert (first.in_flight, second.in_flight) == (4, 3)
    assert first.footprint.bytes > second.footprint.bytes


def test_generation_grows_with_samples_and_length() -> None:
    prefill = MicroBatch(packs=4, length=512, states=0, cells=0)

    def of(samples: int, new_tokens: int) -> Footprint:
        sizes = {"prompts": 8, "prompt": 256, "samples": samples, "new_tokens": new_tokens}
        return Generating(states=states(trained=False), prefill=prefill, **sizes).footprint

    assert of(8, 512).bytes < of(16, 512).bytes < of(16, 1024).bytes
    assert of(8, 512).resident_bytes == of(16, 1024).resident_bytes == 2 * P


def test_a_sampler_that_shares_the_trainers_weights_adds_none() -> None:
    prefill = MicroBatch(packs=1, length=512, states=0, cells=0)
    sizes = {"prompts": 2, "prompt": 256, "samples": 2, "new_tokens": 64}
    made = Generating(states=states(axes=Axes()), prefill=prefill, shared=True, **sizes).footprint
    assert made.resident == ()
    assert Category.WEIGHTS not in made.peak.by_category()


def test_weights_are_handed_over_and_saved_one_after_the_other() -> None:
    resident, largest = sum(t.bytes for t in states().resident), states().shard.largest_tensor
    assert 4 * largest < saving(states()).bytes - resident < 5 * largest
    assert 6 * largest < handing_over(states()).bytes - resident - 2 * P < 7 * largest
    # gloo gathers into memory of its own, twice as much as stays; what is cast comes after.
    assert 8 * largest < saving(states(), cpu=True).bytes - resident < 9 * largest
    assert 8 * largest < handing_over(states(), cpu=True).bytes - resident - 2 * P < 9 * largest
    alone = states(axes=Axes())
    assert saving(alone).bytes == sum(t.bytes for t in alone.resident)


def test_rows_longer_than_a_pack_have_no_mask() -> None:
    for rows in (1, 4):
        most = largest_micro_batch(places=16384, prompt=100, response=16000, rows=rows)
        # There are as many places for shorter rows, and these have one.
        assert most.pairs <= most.places * PACK_PLACES


def test_the_reserve_is_of_devices_and_their_communicators() -> None:
    assert reserved(cuda=False, communicators=3) == ()
    one, three = (sum(t.bytes for t in reserved(cuda=True, communicators=n)) for n in (0, 3))
    assert one >= CUDA_CONTEXT
    assert three - one == NCCL_FIRST + 2 * NCCL_NEXT
    assert {t.origin for t in reserved(cuda=True, communicators=3)} == {Origin.MEASURED}


def test_the_reserve_of_processors_is_of_their_models() -> None:
    alone, several = process([1000, 3000], 0), process([1000, 3000], 24)
    assert [t.bytes for t in alone] == [LIBRARIES, 4000 * TOKENIZER]
    assert [t.bytes for t in several] == [LIBRARIES, 4000 * TOKENIZER, 24 * SHARDED_LAYER]
    assert {(t.category, t.origin) for t in several} == {(Category.RESERVE, Origin.MEASURED)}


# What the model takes over from the engine.


def test_constants_are_the_engines() -> None:
    assert ENGINE_CHUNK == heads.KEPT_LOGITS
    assert ENGINE_KV == generate.KV_BYTES
    assert PACK_PLACES == packing.PACK_TOKENS
    assert score.budget(torch.device("cpu"), 0) == CPU_PLACES
    assert score.budget(torch.device("cuda"), 0) == CUDA_PLACES


@given(
    st.integers(1, 12), st.integers(2, 60), st.integers(1, 700), st.integers(8, 3000), st.integers(1, 4), st.randoms()
)
@settings(deadline=None, max_examples=60)
def test_no_micro_batch_is_larger_than_the_largest(
    rows: int, prompt: int, response: int, places: int, shared: int, random: Any
) -> None:
    rng = np.random.default_rng(random.randrange(1 << 30))
    short = random.choice((1, response))
    prompts = [rng.integers(1, 1 << 30, prompt) for _ in range(-(-rows // shared))]
    made = [
        np.concatenate((prompts[i // shared], rng.integers(1, 1 << 30, rng.integers(short, response + 1))))
        for i in range(rows)
    ]
    tokens = Ragged.of([torch.from_numpy(m) for m in made])
    mask = Ragged.of([torch.arange(len(m)) >= prompt for m in made])
    most = largest_micro_batch(places=places, prompt=prompt, response=response, rows=rows)
    for each in packing.micro_batches(tokens, mask, torch.arange(rows), budget=places):
        packs, length = each.layout.tokens.shape
        assert packs * length <= most.places
        assert each.layout.visible is None or packs * length**2 <= most.pairs
        assert len(each.states) <= most.states
        if short == response:
            assert each.mask.numel() <= most.cells


# The modules themselves.


TINY = (
    Case(model="tiny", axes=Axes(dp=4), packs=4, length=512, states=1024),
    Case(model="tiny", packs=4, length=512, states=1024),
    Case(model="tiny", packs=2, length=512, states=512, precision="fp32"),
    Case(model="tiny", axes=Axes(dp=4), length=4096, states=2048, masked=False, recompute="full"),
    Case(model="tiny", axes=Axes(dp=4), length=4096, states=2048, masked=False, recompute="selective"),
    Case(model="tiny", axes=Axes(dp=4), length=2048, states=1024, logits="whole"),
    Case(model="tiny", axes=Axes(dp=2), length=2048, states=512, masked=False, lora_rank=8),
    Case(model="tiny", axes=Axes(dp=2, tp=2), length=2048, states=512, masked=False),
    Case(model="tiny", axes=Axes(dp=4, tp=4), length=4096, states=512, masked=False, recompute="full"),
    Case(model="tiny", axes=Axes(dp=4, tp=4), length=4096, states=512, masked=False, recompute="selective"),
    Case(model="tiny", axes=Axes(dp=4, tp=2, pp=3), length=4096, states=512, masked=False),
    Case(model="tiny", axes=Axes(dp=4, tp=2, pp=3), length=4096, states=512, masked=False, stage=2),
    Case(model="tiny", axes=Axes(dp=4, tp=4, cp=2), length=8192, states=512, masked=False),
    Case(model="tiny", axes=Axes(dp=2, cp=2), length=2048, states=512, masked=False),
    Case(model="tiny", axes=Axes(dp=2, pp=3), length=2048, states=512, masked=False),
    Case(model="tiny-moe", axes=Axes(dp=4), length=2048, states=1024, masked=False),
    Case(model="tiny-moe", axes=Axes(dp=4, ep=2), length=2048, states=1024, masked=False),
    Case(model="tiny", phase="infer", axes=Axes(dp=4), packs=8, length=512, states=64),
    Case(model="tiny", phase="infer", axes=Axes(dp=4, tp=2), length=8192, states=512, masked=False),
    Case(model="tiny", phase="generate", wave=Wave(prompts=8, prompt=100, samples=4, new_tokens=100)),
    Case(model="tiny", phase="generate", wave=Wave(prompts=8, prompt=100, samples=4, new_tokens=100, top_p=0.9)),
    Case(model="tiny", phase="sync", axes=Axes(dp=4), length=64, states=8),
)


@pytest.mark.parametrize("case", TINY, ids=lambda c: c.name)
def test_an_estimate_is_at_least_what_the_modules_need_and_little_more(case: Case) -> None:
    made = estimate(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = measure(case)
    assert 1.0 <= made.bytes / measured.peak <= 1.25
    if case.phase == "train":
        assert made.resident_bytes / measured.resident == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize(
    "run",
    [
        memory_real.Run(model="tiny", layers=2, rows=6, budget=256),
        memory_real.Run(model="tiny", layers=2, precision="bf16", rows=6, budget=256),
        memory_real.Run(
            model="tiny", layers=2, phase="generate", wave=Wave(prompts=4, prompt=20, samples=2, new_tokens=6)
        ),
    ],
    ids=lambda r: r.name,
)
def test_an_estimate_is_at_least_what_the_engine_allocates_and_little_more(run: memory_real.Run) -> None:
    assert 1.0 <= memory_real.estimate(run).bytes / memory_real.measure(run) <= 1.25


def test_the_tracker_counts_as_torchs_own_does() -> None:
    settings = config_of("tiny")
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)

    def pass_over(model: Any) -> None:
        model(input_ids=torch.zeros(2, 64, dtype=torch.int64)).logits.float().mean().backward()

    peaks = []
    for theirs in (True, False):
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = AutoModelForCausalLM.from_config(config)
            if theirs:
                tracker = MemTracker()
                tracker.track_external(model)
                with tracker:
                    pass_over(model)
                peaks.append(sum(s["Total"] for s in tracker.get_tracker_snapshot("peak").values()))
            else:
                alive = Alive()
                alive.add((*model.parameters(), *model.buffers()))
                with alive:
                    pass_over(model)
                peaks.append(alive.peak)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.001)


def test_the_tracker_counts_what_is_alive_and_what_was() -> None:
    with Alive() as alive:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)
        assert alive.now == 4000
        b.untyped_storage().resize_(8000)
        assert alive.now == 8000
        del b, c
    assert (alive.now, alive.peak) == (0, 8000)
