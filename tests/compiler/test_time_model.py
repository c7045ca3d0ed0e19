"""Seconds of ops: against published figures, against sums by hand, and in how they change."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest

from bench.time_published import DECODING, LIMIT, LLAMA_8B, TRAINING, Training, decoding
from rldsl.compiler.cost.axes import Axes
from rldsl.compiler.cost.find_facts import shipped_models
from rldsl.compiler.cost.hardware import GIB, HARDWARE
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.time_model import (
    REACHED,
    STEP_BYTES,
    Placed,
    Rows,
    Work,
    causal_work,
    concurrent_rows,
    decode_seconds,
    exchange_seconds,
    forward_seconds,
    gather_seconds,
    generate_seconds,
    move_seconds,
    optimizer_seconds,
    packed_work,
    reduce_seconds,
    sync_seconds,
    train_seconds,
)
from rldsl.compiler.ops import Tier

QWEN_7B, QWEN_72B = shipped_models()["Qwen2.5-7B"], shipped_models()["Qwen2.5-72B"]
MOE = shipped_models()["Qwen3-30B-A3B"]
H100 = HARDWARE["h100"]


def placed(facts: ModelFacts = QWEN_7B, hardware: str = "h100", **axes: int) -> Placed:
    return Placed(facts=facts, axes=Axes(**axes), hardware=HARDWARE[hardware])


def rows(prompts: int, samples: int, prompt: int, response: int) -> Rows:
    return Rows(prompts=prompts, samples=samples, prompt_tokens=prompt, response_tokens=response)


def test_every_kind_of_hardware_says_what_it_reaches():
    assert set(REACHED) == set(HARDWARE)


@pytest.mark.parametrize("each", TRAINING, ids=lambda each: each.name)
def test_published_training(each: Training):
    assert 1 / LIMIT < each.predicted / each.published < LIMIT


def test_published_decoding():
    assert 0.9 < decoding() / DECODING < 1.1


def test_a_long_forward_is_bound_by_its_products():
    work = Work(tokens=10_000, states=1_000, attention=1e15)
    reached = REACHED["h100"]
    flops = 10_000 * QWEN_7B.trunk_flops + 1_000 * QWEN_7B.head_flops
    expected = flops / (989e12 * reached.matrix) + 1e15 / (989e12 * reached.attention)
    assert isclose(forward_seconds(placed(), work), expected)


def test_a_short_forward_is_bound_by_reading_the_weights_or_by_launching_them():
    one = Work(tokens=1, states=0, attention=0.0)
    read = QWEN_7B.parameters * 2 / (3350e9 * REACHED["h100"].memory)
    assert isclose(forward_seconds(placed(), one), read)
    assert isclose(forward_seconds(placed(tp=8), one) - 2 * 28 * 3584 * 2 * 2 * 7 / 8 / 360e9, 28 * 100e-6)


def test_training_is_three_forwards_and_recomputing_one_more():
    work = Work(tokens=50_000, states=0, attention=1e14)
    forward = forward_seconds(placed(), work)
    assert isclose(train_seconds(placed(), work, micro_batches=1), 3 * forward)
    assert isclose(train_seconds(placed(), work, micro_batches=1, recompute=1.0), 4 * forward)
    heads = Work(tokens=50_000, states=50_000, attention=0.0)
    kept = train_seconds(placed(), heads, micro_batches=1)
    again = 50_000 * QWEN_7B.head_flops / placed().rate
    assert isclose(train_seconds(placed(), heads, micro_batches=1, kept_logits=False), kept + again)


def test_small_micro_batches_are_bound_by_gathering_the_weights():
    work = Work(tokens=8_192, states=0, attention=0.0)
    spread = placed(QWEN_72B, dp=64)
    # 145 GB each way at 0.8 of the 400 GB/s that eight adapters carry, and a start for each layer.
    gather = 72_706_203_648 * 2 * 63 / 64 / 320e9 + 80 * 20e-6
    assert isclose(gather_seconds(spread), gather)
    assert isclose(reduce_seconds(spread), 2 * gather - 80 * 20e-6)
    few, many = (train_seconds(spread, work, micro_batches=n) for n in (1, 32))
    assert isclose(many, 32 * (2 * gather + reduce_seconds(spread))) and many > 3 * few


def test_unsharded_weights_are_not_gathered_but_their_gradients_summed_everywhere():
    apart = replace(placed(dp=8), sharded=False)
    assert gather_seconds(apart) == 0 and gather_seconds(placed()) == 0 and reduce_seconds(placed()) == 0
    sent = 2 * QWEN_7B.parameters * 4 * 7 / 8
    assert isclose(reduce_seconds(apart), sent / 360e9 + 28 * 20e-6)


def test_a_step_of_the_optimiser_streams_what_the_rank_holds():
    assert isclose(optimizer_seconds(placed(dp=8)), QWEN_7B.parameters / 8 * STEP_BYTES / (3350e9 * 0.7))
    assert isclose(optimizer_seconds(placed(dp=8), trained=0.25), optimizer_seconds(placed(dp=8)) / 4)


@pytest.mark.parametrize("axes", [{"dp": 8}, {"dp": 2, "tp": 4}, {"dp": 2, "tp": 2, "pp": 2}, {"cp": 4, "dp": 2}])
def test_axes_share_out_all_parameters(axes):
    assert isclose(placed(QWEN_72B, **axes).held * 8, QWEN_72B.parameters)
    assert isclose(placed(MOE, **axes).held * 8, MOE.parameters)


def test_experts_are_shared_out_over_ep_and_what_is_left_of_dp():
    assert isclose(placed(MOE, dp=8, ep=4).held * 8, MOE.parameters)
    rest = MOE.parameters - MOE.blocks.experts
    assert isclose(placed(MOE, dp=8, ep=4).parameters, rest + MOE.blocks.experts / 4)


def test_stages_wait_for_each_other():
    work = Work(tokens=100_000, states=0, attention=0.0)
    whole = forward_seconds(placed(), work)
    assert isclose(forward_seconds(placed(pp=4), work, micro_batches=4), whole / 4 * (1 + 3 / 4))
    assert forward_seconds(placed(pp=4), work, micro_batches=32) < whole / 3.5


def test_tensor_parallelism_costs_more_beyond_a_node():
    work = Work(tokens=100_000, states=0, attention=0.0)
    whole = forward_seconds(placed(QWEN_72B), work)
    within, beyond = (forward_seconds(placed(QWEN_72B, tp=n), work) * n / whole for n in (8, 16))
    assert 1 < within < 1.5 < beyond


def test_contexts_and_experts_are_exchanged():
    work = Work(tokens=100_000, states=0, attention=0.0)
    assert forward_seconds(placed(cp=4), work) * 4 > forward_seconds(placed(), work)
    still = replace(placed(MOE, dp=8), sharded=False)
    moved = replace(placed(MOE, dp=8, ep=8), sharded=False)
    sent = 2 * 48 * 100_000 * 8 * 2048 * 2 * 7 / 8
    assert isclose(forward_seconds(moved, work) - forward_seconds(still, work), sent / 360e9)


def test_decoding_reads_all_weights_once_for_all_rows():
    alone, together = (decode_seconds(placed(), n, 1000) for n in (1, 64))
    assert together < 1.5 * alone
    rest = QWEN_7B.parameters - QWEN_7B.blocks.embedding
    keys = 1000 * QWEN_7B.kv_bytes_per_token()
    assert isclose(alone, rest * 2 / (3350e9 * 0.73) + keys / (3350e9 * 0.7))


def test_many_rows_are_bound_by_their_products():
    slow = decode_seconds(placed(), 4096, 1)
    assert isclose(slow, 4096 * (QWEN_7B.trunk_flops + QWEN_7B.head_flops) / placed().rate)


def test_few_rows_meet_few_experts():
    one, many = (decode_seconds(placed(MOE, hardware="a100"), n, 1) for n in (1, 2048))
    active = MOE.active_parameters - MOE.blocks.embedding
    assert isclose(one, max(active * 2 / (2039e9 * 0.73), 48 * 100e-6), rel_tol=1e-3)
    assert many > 5 * one


def test_rollouts_wait_where_keys_have_no_room():
    given = rows(64, 8, 512, 1024)
    each = QWEN_7B.kv_bytes(1536)
    assert concurrent_rows(placed(), given, None, 512) == 512
    assert concurrent_rows(placed(), given, 100.5 * each, 512) == 100
    assert concurrent_rows(placed(tp=2), given, 100.5 * each, 512) == 201
    assert concurrent_rows(placed(), given, 0.5 * each, 512) == 1
    free, tight = (generate_seconds(placed(), given, kv_budget=b) for b in (None, 64 * each))
    prefill = forward_seconds(placed(), Work(tokens=64 * 512, states=64, attention=64 * QWEN_7B.attention_flops(512)))
    assert isclose(free, prefill + 1024 * decode_seconds(placed(), 512, 1024))
    assert isclose(tight, prefill + 8 * 1024 * decode_seconds(placed(), 64, 1024))


def test_samples_of_a_prompt_share_it_within_a_pack():
    work = packed_work(QWEN_7B, rows(8, 4, 64, 64), 1)
    # Trees of 64 + 4 * 64 tokens, one a pack: two are more than 512.
    assert (work.tokens, work.states) == (8 * 320, 8 * 4 * 64)
    assert work.attention == 4 * 28 * 3584 * 8 * 320 * 320
    assert packed_work(QWEN_7B, rows(8, 4, 64, 64), 4).tokens == 2 * 320


def test_small_trees_stand_in_one_pack_and_are_padded():
    # Three of 168 tokens in a pack of 504, so four take two packs.
    assert packed_work(QWEN_7B, rows(4, 4, 40, 32), 1).tokens == 2 * 504


def test_long_rows_are_packs_of_their_own():
    work = packed_work(QWEN_7B, rows(2, 3, 1000, 500), 1)
    assert work.tokens == 6 * 1500 and work.attention == 4 * 28 * 3584 * 6 * 1500 * 1500
    causal = causal_work(QWEN_7B, rows(2, 3, 1000, 500), 1)
    assert causal.tokens == work.tokens and isclose(causal.attention, work.attention / 2, rel_tol=1e-3)


def test_moves():
    assert isclose(move_seconds(H100, 51.2e9, Tier.HOST), 1.0)
    assert exchange_seconds(H100, 1e9, 1) == 0
    within, beyond = (exchange_seconds(H100, 1e9, n) for n in (8, 64))
    assert isclose(within, 1e9 / 360e9 + 20e-6) and isclose(beyond, 1e9 / 40e9 + 20e-6)


def test_weights_reach_the_rollout_engine():
    source, target = placed(dp=8), replace(placed(dp=4, tp=2), sharded=False)
    gathered = gather_seconds(source)
    assert isclose(sync_seconds(source, target), gathered + QWEN_7B.parameters / 2 * 2 / (3350e9 * 0.7))
    assert isclose(sync_seconds(source, target, apart=16), gathered + QWEN_7B.parameters / 2 * 2 / 40e9 + 20e-6)
    assert isclose(sync_seconds(source, target, apart=8), gathered + QWEN_7B.parameters / 2 * 2 / 360e9 + 20e-6)


def test_a_processor_does_not_launch_beside_its_work():
    cpu = replace(placed(LLAMA_8B, hardware="cpu"), precision="fp32")
    work = Work(tokens=2048, states=0, attention=0.0)
    products = 2048 * LLAMA_8B.trunk_flops / (0.5e12 * REACHED["cpu"].matrix)
    assert isclose(forward_seconds(cpu, work), products + 32 * REACHED["cpu"].launch)


def test_a_budget_in_gib_is_what_a_card_holds():
    assert 75 * GIB < (H100.budget or 0) < 79.1 * GIB
