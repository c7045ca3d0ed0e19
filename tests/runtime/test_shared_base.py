"""Plans whose reference runs on the actor's weights beneath its adapters, against the same plans with two models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.compiler.ops import (
    AnyOp,
    GenerateOp,
    InferOp,
    OffloadOp,
    OnloadOp,
    SaveOp,
    State,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from tests.runtime.differential import Outcome, Wanted, Way, alone, difference
from tests.runtime.plans import measured
from tests.runtime.pool import Ranks
from tests.runtime.tiny_engine import TINY

NAME = "share_base_weights"
WITHOUT = frozenset({NAME})
PROGRAM = """\
algorithm adapted {
  param seed : int = 3
  model actor     : policy = scratch(; alphabet = "0123456789=+ ", hidden = 32, precision = "PRECISION") with lora_rank = 4
  model reference : policy = frozen actor
  model critic    : value  = shared actor
  input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 5) -> tokens, response_mask, rollout_logp, completions
  node reward  = compute char_accuracy(completions, answers) -> score
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node ref     = reference.logprob(tokens, response_mask) -> ref_logp
  node baseline  = critic.value(tokens, response_mask) -> values
  node shaping   = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.1) -> rewards
  node advantage = compute gae(rewards, values, response_mask) -> advantages, returns
  node fit       = critic.train value_loss(tokens, response_mask, values, returns) with lr = 1e-2, epochs = 2
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 1e-2, epochs = 2, minibatch = 2
  validate test every 2 {
    input prompts, answers : text[prompt] = jsonl("task.jsonl") with batch = 4
    node rollout  = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node was      = reference.logprob(tokens, response_mask) -> was_logp
    metric before = mean(was_logp, response_mask)
  }
}
"""


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


def written(folder: Path, precision: str) -> Path:
    rows = [{"prompts": f"{i}=", "answers": f"{i}{i}"} for i in range(8)]
    (folder / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "a.rl").write_text(PROGRAM.replace("PRECISION", precision))
    return folder / "a.rl"


def plans(source: Path, *, ranks: int, layouts: tuple[str, ...] = ()) -> list[Plan]:
    """With the pass and without."""
    ways = [Way(ranks=ranks, layouts=layouts, disable=off) for off in (frozenset[str](), WITHOUT)]
    made = [compile_file(source, way.options()).plan for way in ways]
    assert [p.model("reference").base_of for p in made] == ["actor", None]
    return made


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, but for what is measured of a machine."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        names = [k for k in one.keys() | other.keys() if not measured_name(k)]
        return all(k in one and k in other and same(one[k], other[k]) for k in names)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def measured_name(key: object) -> bool:
    return isinstance(key, str) and ("seconds" in key or key.startswith("memory/") or key == "tokens_per_s")


def check(shared: Outcome, apart: Outcome) -> None:
    assert same(shared.lines, apart.lines) and same(shared.fields, apart.fields)
    assert same(shared.outputs, apart.outputs) and same(shared.weights, apart.weights)
    assert any(s["ref_logp"] and not same(s["ref_logp"], s["old_logp"]) for s in shared.fields[1:])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_rank_to_the_bit_and_as_written(tmp_path: Path, precision: str) -> None:
    source = written(tmp_path, precision)
    both = [alone(plan, tmp_path, tmp_path / str(i)) for i, plan in enumerate(plans(source, ranks=1))]
    check(*both)
    if precision == "fp32":
        found = difference(both[0], Wanted.of(source), plans(source, ranks=1)[0])
        assert not found.bad, str(found)


@pytest.mark.parametrize(
    "layouts", [(), ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 0", "reference.infer : fsdp() on 0..1")]
)
def test_two_ranks_to_the_bit(two: Ranks, tmp_path: Path, layouts: tuple[str, ...]) -> None:
    source = written(tmp_path, "fp32")
    both = [two.run(p, tmp_path, tmp_path / str(i)) for i, p in enumerate(plans(source, ranks=2, layouts=layouts))]
    check(*both)
    found = difference(both[0], Wanted.of(source), plans(source, ranks=2, layouts=layouts)[0])
    assert not found.bad, str(found)


def test_rollouts_on_a_rank_that_trains_nothing(two: Ranks, tmp_path: Path) -> None:
    """It samples from the actor, and holds nothing of the reference."""
    source = written(tmp_path, "fp32")
    layouts = ("actor.train : fsdp() on 0", "actor.generate : hf() on 1", "reference.infer : fsdp() on 0")
    both = [two.run(p, tmp_path, tmp_path / str(i)) for i, p in enumerate(plans(source, ranks=2, layouts=layouts))]
    check(*both)


def test_the_tiny_engine_agrees(tmp_path: Path) -> None:
    """That of the random programs knows bases as well."""
    source = written(tmp_path, "fp32")
    both = [alone(plan, tmp_path, tmp_path / str(i), TINY) for i, plan in enumerate(plans(source, ranks=1))]
    check(*both)


def held(executor: Executor) -> int:
    """Bytes of all parameters, each once."""
    models = executor.runtime.models.values()
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.scorer.parameters()
    }
    return sum(storages.values())


def test_memory_falls_by_the_weights_of_the_reference(tmp_path: Path) -> None:
    """Measured, and by the plan: to the byte."""
    source = written(tmp_path, "fp32")
    found = []
    for off in (frozenset[str](), WITHOUT):
        plan = compile_file(source, Options(disable=off, cluster="1 x cpu", memory=8 << 30)).plan
        made = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / str(len(off)))
        assert plan.memory is not None
        weights = {s.model: s.bytes for s in plan.memory.states if s.state == "weights"}
        # A model of its own has a tokenizer of its own, which the reserve counts.
        found.append((held(made), sum(weights.values()), plan.memory.unplanned - plan.memory.reserve, weights))
        made.runtime.close()
    (shared, planned, peak, _), (apart, planned_apart, peak_apart, weights) = found
    assert apart - shared == planned_apart - planned == peak_apart - peak == weights["reference"] > 0


def swapping(plan: Plan) -> Plan:
    """With the actor's weights on the device only while an op needs them, and between steps."""

    def move(kind: type[OnloadOp] | type[OffloadOp], at: str, **options: Any) -> OnloadOp | OffloadOp:
        return kind(id=f"{kind.__name__}:{at}", model="actor", state=State.WEIGHTS, bytes=1, **options)

    def around(op: AnyOp) -> tuple[AnyOp, ...]:
        if not isinstance(op, GenerateOp | InferOp | TrainOp | SyncWeightsOp | SaveOp):
            return (op,)
        keep = isinstance(op, TrainOp)
        return move(OnloadOp, op.id, guard=op.guard), op, move(OffloadOp, op.id, keep=keep, guard=op.guard)

    (program,) = plan.programs
    inside = (each for op in program.ops for each in around(op))
    ops = (move(OffloadOp, "begin", keep=False), *inside, move(OnloadOp, "end"))
    made = measured(replace(plan, programs=(replace(program, ops=ops),)))
    assert made.memory is not None
    return replace(made, memory=replace(made.memory, ops=()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_come_back_for_the_reference(tmp_path: Path, precision: str) -> None:
    """What it runs on leaves the device as the actor's, and comes back as that."""
    shared, apart = plans(written(tmp_path, precision), ranks=1)
    check(alone(swapping(shared), tmp_path, tmp_path / "shared"), alone(apart, tmp_path, tmp_path / "apart"))
