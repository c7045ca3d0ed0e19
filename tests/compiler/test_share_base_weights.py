"""A frozen copy of what trains adapters alone has no weights of its own, and nothing else loses its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.ops import InferOp, OffloadOp, OnloadOp, State
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.compiler.plan import ModelSpec, Plan
from rldsl.compiler.printer import print_module
from rldsl.compiler.verify import verify_plan
from rldsl.render.words import model_words
from tests.compiler.programs import PPO, PROGRAM, after, compiled, graph_of

NAME = "share_base_weights"
LORA = ' : policy = scratch(; alphabet = "01") with lora_rank = 4'
WHOLE = ' : policy = scratch(; alphabet = "01")'
GRPO = (
    PROGRAM.replace(WHOLE, LORA)
    .replace("kl_coef : float = 0.0", "kl_coef : float = 0.1")
    .replace("minibatch = 8", "minibatch = 4")
)
ADAPTED_PPO = PPO.replace(WHOLE, LORA)
REFERENCE = "model reference : policy = frozen actor"
LAID = "deploy {{\n  actor.train : {}\n  reference.infer : {}\n}}\n"


def bases(plan: Plan) -> dict[str, str]:
    return {m.name: m.base_of for m in plan.models if m.base_of}


def forwards(plan: Plan) -> list[str]:
    return [op.id for op in plan.ops() if isinstance(op, InferOp)]


def test_a_frozen_copy_is_the_base() -> None:
    plan = compiled(GRPO).plan
    assert bases(plan) == {"reference": "actor"}
    ref = next(op for op in plan.ops() if op.id == "ref")
    (reason,) = (r for r in ref.because if r.by == NAME)
    assert "`actor` alone" in reason.why and "no weights of its own" in reason.why
    assert "without its adapters" in model_words(plan.model("reference"))
    assert not bases(compiled(GRPO, disable=frozenset({NAME})).plan)


@pytest.mark.parametrize(
    "model",
    [
        'frozen scratch(; alphabet = "01")',
        'scratch(; alphabet = "01")',
        "copy actor",
        "frozen reference2",
        "copy actor with lora_rank = 2",
    ],
)
def test_so_is_whatever_is_loaded_alike_and_stays_so(model: str) -> None:
    text = GRPO.replace(REFERENCE, f"model reference2 : policy = frozen actor\n  model reference : policy = {model}")
    assert bases(compiled(text).plan) == {"reference": "actor"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (LORA, WHOLE),
        (REFERENCE, 'model reference : policy = frozen scratch(; alphabet = "10")'),
        (REFERENCE, 'model reference : policy = frozen scratch(; alphabet = "01", precision = "bf16")'),
        (REFERENCE, 'model reference : policy = frozen hf("01")'),
    ],
)
def test_what_began_otherwise_or_trains_whole_is_none(old: str, new: str) -> None:
    assert old in GRPO
    assert not bases(compiled(GRPO.replace(old, new)).plan)


def test_what_samples_keeps_its_weights() -> None:
    greedy = "  node greedy = reference.generate(prompts; max_new_tokens = 4) -> texts, mask, logp, said\n"
    text = GRPO.replace("  node advantage", f"{greedy}  metric length = mean(logp, mask)\n  node advantage")
    assert not bases(compiled(text).plan)


def test_values_keep_their_weights() -> None:
    text = ADAPTED_PPO.replace(LORA, f"{LORA}\n  model origin : value = copy critic").replace(
        "critic    : value  = copy actor", 'critic : value = scratch(; alphabet = "01") with lora_rank = 4'
    )
    read = (
        "  node first = origin.value(tokens, response_mask) -> firsts\n  metric began = mean(firsts, response_mask)\n"
    )
    plan = compiled(text.replace("  node shaping", f"{read}  node shaping")).plan
    assert "origin" in {m.name for m in plan.models} and bases(plan) == {"reference": "actor"}


def test_a_model_with_a_further_head_keeps_its_weights() -> None:
    text = GRPO.replace(REFERENCE, "model reference : policy = copy actor\n  model judge : value = shared reference")
    read = "  node worth = judge.value(tokens, response_mask) -> values\n  metric worth_mean = mean(values, response_mask)\n"
    assert not bases(compiled(text.replace("  node advantage", f"{read}  node advantage")).plan)


@pytest.mark.parametrize(
    ("train", "infer", "shared"),
    [
        ("fsdp() on 0..3", "fsdp() on 0..3", True),
        ("fsdp() on 0..3", "fsdp() on 0..1", False),
        ("fsdp() on 0..1", "fsdp() on 2..3", False),
        ("megatron(tp = 2) on 0..3", "megatron(tp = 2) on 0..3", True),
        ("megatron(tp = 2) on 0..3", "megatron(pp = 2) on 0..3", False),
        ("megatron() on 0..3", "fsdp() on 0..3", False),
    ],
)
def test_only_where_both_lie_alike(train: str, infer: str, shared: bool) -> None:
    assert bool(bases(compiled(GRPO + LAID.format(train, infer)).plan)) is shared


def test_it_is_no_change_of_weights() -> None:
    """At depth 1 `old` now stands last, as `ref` at depth 2 runs the same layers."""
    rival = '  model rival : policy = scratch(; alphabet = "01", seed = 2)\n  model reference'
    text = ADAPTED_PPO.replace("  model reference", rival).replace("actor.generate", "rival.generate")
    text = text.replace("when kl_coef > 0", "when kl_coef > 0 after reward")
    without, shared = (forwards(compiled(text, disable=off).plan) for off in (frozenset({NAME}), frozenset[str]()))
    assert without == ["old", "baseline", "ref"] and shared == ["baseline", "old", "ref"]


def test_forwards_of_both_are_not_one() -> None:
    plan = compiled(GRPO).plan
    assert forwards(plan) == ["old", "ref"]


def test_it_prints_what_it_found() -> None:
    assert "# reference is actor without its adapters" in print_module(after(GRPO, NAME))


# With a budget


def planned(disable: frozenset[str], memory: int, tmp_path: Path) -> Plan:
    text = GRPO.replace(LORA, ' : policy = hf("Qwen/Qwen2.5-7B"; precision = "bf16") with lora_rank = 8')
    graph = graph_of(text.replace("max_new_tokens = 4", "max_new_tokens = 256, max_prompt_tokens = 256"))
    options = Options(cluster="4 x h100", disable=disable, memory=memory)
    return compile_graph(graph, options, source_dir=tmp_path).plan


def test_memory_counts_the_weights_once(tmp_path: Path) -> None:
    without, shared = (planned(off, 75 << 30, tmp_path).memory for off in (frozenset({NAME}), frozenset[str]()))
    assert without is not None and shared is not None
    held = {s.model: s for s in without.states if s.state is State.WEIGHTS}
    assert [s.model for s in shared.states if s.state is State.WEIGHTS] == ["actor"]
    # A rank's part of 7.6 billion parameters in two bytes each.
    assert held["reference"].bytes == pytest.approx(7.6e9 * 2 / 4, rel=0.01)
    assert without.unplanned - shared.unplanned == held["reference"].bytes


def test_moves_are_of_the_one_that_has_weights(tmp_path: Path) -> None:
    """With little room what is held twice must leave and come back, what is held once need not."""
    moves = [
        {(op.model, op.state) for op in planned(off, 22 << 30, tmp_path).ops() if isinstance(op, OnloadOp | OffloadOp)}
        for off in (frozenset({NAME}), frozenset[str]())
    ]
    assert moves[0] - moves[1] == {("reference", State.WEIGHTS)} and moves[1] == {("actor", State.ENGINE)}


# The verifier


def problems(plan: Plan) -> list[str]:
    return [p.message for p in verify_plan(plan)]


def changed(plan: Plan, name: str, **values: object) -> Plan:
    models = tuple(msgspec.structs.replace(m, **values) if m.name == name else m for m in plan.models)
    return msgspec.structs.replace(plan, models=models)


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        ("actor", {"lora_rank": 0, "lora_alpha": 0.0, "lora_targets": ""}, "that has no adapters"),
        ("actor", {"precision": "bf16"}, "sources or precisions differ"),
        ("reference", {"source": "other"}, "sources or precisions differ"),
        ("reference", {"source_args": {"alphabet": "10"}}, "sources or precisions differ"),
        ("reference", {"base_of": "ghost"}, "which is not there"),
        ("reference", {"base_of": "reference"}, "layers of its own"),
        ("reference", {"kind": "reward"}, "layers of its own"),
        ("reference", {"shares": "actor"}, "layers of its own"),
        ("actor", {"base_of": "reference"}, "layers of its own"),
    ],
)
def test_the_verifier_refuses_a_base_that_is_none(model: str, values: dict[str, object], said: str) -> None:
    plan = compiled(GRPO).plan
    assert not problems(plan)
    found = problems(changed(plan, model, **values))
    assert any(said in each for each in found), found


def test_the_verifier_refuses_a_base_that_is_trained_or_samples() -> None:
    plan = compiled(GRPO.replace("critic", "judge")).plan
    for kind in ("update", "rollout"):
        program = plan.programs[0]
        ops = tuple(msgspec.structs.replace(op, model="reference") if op.id == kind else op for op in program.ops)
        found = problems(msgspec.structs.replace(plan, programs=(msgspec.structs.replace(program, ops=ops),)))
        assert any(f"`{kind}` needs weights of `reference`'s own" in each for each in found), found


def test_the_verifier_refuses_a_base_elsewhere() -> None:
    apart = compiled(GRPO + LAID.format("fsdp() on 0..1", "fsdp() on 2..3")).plan
    found = problems(changed(apart, "reference", base_of="actor"))
    assert any("`ref` runs on" in each or "`update` runs on" in each for each in found), found
    other = compiled(GRPO + LAID.format("megatron() on 0..3", "fsdp() on 0..3")).plan
    found = problems(changed(other, "reference", base_of="actor"))
    assert found == ["`reference` runs by fsdp, and `actor`, whose base it is, by megatron"]


def test_the_verifier_wants_the_states_of_what_has_weights(tmp_path: Path) -> None:
    plan = planned(frozenset(), 75 << 30, tmp_path)
    assert not problems(plan) and plan.memory is not None
    assert "nothing is said of the weights of `reference`" in problems(changed(plan, "reference", base_of=None))
    own = msgspec.structs.replace(plan.memory.states[0], model="reference", dirty=False)
    memory = msgspec.structs.replace(plan.memory, states=(*plan.memory.states, own))
    found = problems(msgspec.structs.replace(plan, memory=memory))
    assert "the weights of `reference` is not its own: it has those of `actor`" in found


def test_a_spec_knows_whose_layers_it_has() -> None:
    alone = ModelSpec(name="a", kind="policy", source="s")
    assert alone.holder == "a"
    assert (
        msgspec.structs.replace(alone, shares="b").holder == msgspec.structs.replace(alone, base_of="b").holder == "b"
    )
