"""What ops do besides calling engines: what is loaded how, synced when, counted and logged under which name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler, Samples
from rldsl.backends.executor import Executor
from rldsl.backends.keys import reward_key
from rldsl.backends.metrics import StepMetrics
from rldsl.backends.runtime import changed_models, prompts_of
from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    InferMethod,
    InferOp,
    LoadOp,
    SaveOp,
    TrainOp,
)
from rldsl.compiler.plan import Plan, Program
from rldsl.diagnostics import DiagnosticError
from tests.runtime.blocks import TEST, blocks
from tests.runtime.plans import field, grpo, only_compute, scratch, user_function


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def executor(plan: Plan, folder: Path, steps: int = 2) -> Executor:
    return Executor(plan, Comm.alone(), steps=steps, source_dir=folder, run_dir=folder / "run")


def with_ops(plan: Plan, ops: list[AnyOp], **changes: Any) -> Plan:
    return msgspec.structs.replace(plan, programs=(Program(ops=tuple(ops)),), **changes)


def untrained(plan: Plan) -> Plan:
    return with_ops(plan, [op for op in plan.ops() if not isinstance(op, (TrainOp, SaveOp))])


def judged(plan: Plan, alphabet: str, *, when: type[AnyOp] = TrainOp) -> Plan:
    """The plan with a second model that scores the tokens of the first, before the op of type `when`."""
    judge = scratch("judge")
    args = {**judge.source_args, "alphabet": alphabet}
    op = InferOp(
        id="judge", model="judge", method=InferMethod.LOGPROB, tokens="tokens", response_mask="response_mask",
        output="judged",
    )  # fmt: skip
    ops = [o for each in plan.ops() for o in ((op, each) if isinstance(each, when) else (each,))]
    models = (*plan.models, msgspec.structs.replace(judge, source_args=args))
    return with_ops(plan, ops, models=models, fields=(*plan.fields, field("judged", "f32[sample, token]", "judge")))


def test_models_that_share_rows_share_a_vocabulary(tmp_path: Path) -> None:
    plan = grpo(tmp_path)
    with pytest.raises(DiagnosticError) as caught:
        executor(judged(plan, "0123456789+"), tmp_path)
    found = caught.value.diagnostics[0]
    assert found.code == "RL0610" and "`judge`" in found.message and "`actor`" in found.message
    assert found.expected == "the 17 tokens of `actor`, where '=' has id 14"
    assert found.found == "15 tokens in `judge`, where '=' is unknown"
    with pytest.raises(DiagnosticError, match="RL0610"):  # the same characters, but other ids
        executor(judged(plan, "=0123456789+ "), tmp_path)
    executor(judged(plan, "0123456789=+ "), tmp_path).run_step(0)


def test_a_model_that_reads_no_tokens_of_another_may_have_its_own_vocabulary(tmp_path: Path) -> None:
    plan = grpo(tmp_path)
    helper = msgspec.structs.replace(scratch("helper"), source_args={"alphabet": "0123456789=", "seed": 0})
    op = GenerateOp(
        id="ask", model="helper", prompts="prompts", n=1, max_new_tokens=2, temperature=1.0,
        outputs={"tokens": "theirs", "completions": "said"},
    )  # fmt: skip
    ops = [o for each in plan.ops() for o in ((op, each) if isinstance(each, GenerateOp) else (each,))]
    fields = (*plan.fields, field("theirs", "i64[sample, token]", "ask", 1), field("said", "text[sample]", "ask", 1))
    metrics = executor(with_ops(plan, ops, models=(*plan.models, helper), fields=fields), tmp_path).run_step(0)
    assert metrics["step"] == 0 and metrics["update/loss"] is not None


def test_collected_tokens_have_the_vocabulary_of_their_rollout(tmp_path: Path) -> None:
    plan = blocks(tmp_path)
    with pytest.raises(DiagnosticError, match="RL0610"):
        executor(judged(plan, "0123456789+"), tmp_path)
    executor(judged(plan, "0123456789=+ "), tmp_path).run_step(0)


def shared(plan: Plan, train: str) -> Plan:
    """The plan with a critic on the actor's trunk, of which `train` is trained."""
    critic = msgspec.structs.replace(scratch("critic"), kind="value", shares="actor")
    op = InferOp(
        id="value", model="critic", method=InferMethod.VALUE, tokens="tokens", response_mask="response_mask",
        output="values",
    )  # fmt: skip
    ops = [o for each in plan.ops() for o in ((op, each) if isinstance(each, TrainOp) else (each,))]
    ops = [msgspec.structs.replace(o, model=train) if isinstance(o, TrainOp) else o for o in ops]
    # The head comes first: its trunk must be loaded before it all the same.
    return with_ops(
        plan, ops, models=(critic, *plan.models), fields=(*plan.fields, field("values", "f32[sample, token]", "value"))
    )


@pytest.mark.parametrize("train", ["actor", "critic"])
def test_heads_on_one_trunk_change_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str) -> None:
    plan = shared(grpo(tmp_path), train)
    assert changed_models(plan) == {"actor", "critic"}
    made = executor(plan, tmp_path)
    models, synced = made.runtime.models, list[str]()
    assert models["critic"].scorer is models["actor"].scorer and models["critic"].optimizer is models["actor"].optimizer
    monkeypatch.setattr(Sampler, "sync", lambda self, model, weights=None: synced.append(model.spec.name))
    made.run_step(0)
    assert synced == ["actor"], "training any head moves the trunk that rollouts use"


def test_only_models_that_an_op_trains_have_an_optimiser(tmp_path: Path) -> None:
    plan = judged(grpo(tmp_path), "0123456789=+ ")
    assert all(m.trainable for m in plan.models)
    models = executor(plan, tmp_path).runtime.models
    assert models["actor"].optimizer is not None and models["judge"].optimizer is None
    assert not any(p.requires_grad for p in models["judge"].scorer.parameters())


@pytest.mark.parametrize("trained", [True, False])
def test_weights_that_no_op_trains_are_not_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    plan, synced = grpo(tmp_path), list[str]()
    made = executor(plan if trained else untrained(plan), tmp_path)
    monkeypatch.setattr(Sampler, "sync", lambda self, model, weights=None: synced.append(model.spec.name))
    for step in range(2):
        made.run_step(step)
    assert synced == (["actor"] * 2 if trained else [])


def test_two_inputs_are_one_batch_of_prompts(tmp_path: Path) -> None:
    plan = grpo(tmp_path)
    load = next(op for op in plan.ops() if isinstance(op, LoadOp))
    second = msgspec.structs.replace(load, id="load:2", columns=("answers",))
    first = msgspec.structs.replace(load, columns=("prompts",))
    ops = [o for op in plan.ops() for o in ((first, second) if op.id == load.id else (op,))]
    line = executor(with_ops(plan, ops), tmp_path).run_step(0)
    assert line["prompts"] == 8 and line["samples"] == 32


def test_prompts_of_other_sets_count_too(tmp_path: Path) -> None:
    plan = grpo(tmp_path)
    load = next(op for op in plan.ops() if isinstance(op, LoadOp))
    more = [
        msgspec.structs.replace(
            load, id=f"load:{n}", stream=n, columns=(f"test.{n}",), names=(n,), batch=2, guard=Guard(every=5)
        )
        for n in ("prompts", "answers")
    ]
    free = FreeOp(id="free:test", fields=("test.prompts", "test.answers"), guard=Guard(every=5))
    fields = (*plan.fields, *(field(f"test.{n}", "text[prompt]", "load", 1) for n in ("prompts", "answers")))
    made = executor(with_ops(plan, [*more, *plan.ops(), free], fields=fields), tmp_path, steps=9)
    assert [made.run_step(step)["prompts"] for step in (0, 1)] == [10, 8]


def test_a_plan_that_loads_nothing_is_the_compilers_fault(tmp_path: Path) -> None:
    plan = with_ops(grpo(tmp_path), [])
    with pytest.raises(AssertionError, match="loads no prompts"):
        executor(plan, tmp_path)


def named(folder: Path, *names: str) -> Plan:
    """A plan that computes f32 fields of these names, each by a function that gives 7."""
    plan = only_compute(folder, user_function(folder, "def user(texts):\n    return [7.0] * len(texts)\n"))
    load = msgspec.structs.replace(next(iter(plan.ops())), columns=("answers",))
    args = (Arg(param="texts", field="answers"),)
    ops: list[AnyOp] = [load]
    ops += [ComputeOp(id=f"make:{n}", function="user", args=args, outputs=(n,)) for n in names]
    ops += [FreeOp(id="free", fields=("answers", *names))]
    texts = field("answers", "text[prompt]", "load", 1)
    return with_ops(plan, ops, fields=(texts, *(field(n, "f32[prompt]", f"make:{n}", 1) for n in names)))


def test_a_field_does_not_overwrite_the_logs_own_numbers(tmp_path: Path) -> None:
    names = ("step", "seconds", "prompts", "samples", "tokens", "response_tokens", "tokens_per_s", "length")
    line = executor(named(tmp_path, *names), tmp_path).run_step(1)
    assert line["step"] == 1 and line["prompts"] == 8 and line["samples"] == line["tokens"] == 0
    assert line["seconds"] != 7.0 and line["tokens_per_s"] == 0.0
    assert all(line[f"field/{n}"] == 7.0 for n in names[:-1]) and line["length"] == 7.0


def test_the_reward_is_found_under_the_name_it_is_logged_by(tmp_path: Path) -> None:
    assert reward_key(named(tmp_path, "tokens")) == "field/tokens"
    assert reward_key(named(tmp_path, "tokens", "score")) == "score"
    assert reward_key(msgspec.structs.replace(named(tmp_path, "x"), programs=())) is None
    plan = named(tmp_path, "step")
    made = executor(plan, tmp_path, steps=1)
    made.run()
    assert StepMetrics(plan, Comm.alone()).close(3)["step"] == 3
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"field/step": 7.0') == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("TokenLoss(logp.sum(), {})", "returned `loss` of the wrong shape"),
        ("TokenLoss(logp.detach(), {})", "has no gradient"),
        ("logp", "returned no TokenLoss"),
    ],
)
def test_a_wrong_loss_is_shown_where_it_is_defined(tmp_path: Path, made: str, said: str) -> None:
    body = (
        "from rldsl import TokenLoss\n\n"
        f"def policy_loss(logp, response_mask, old_logp, advantages, ref_logp):\n    return {made}\n"
    )
    plan = grpo(tmp_path, save=False)
    mine = user_function(tmp_path, body, name="policy_loss")
    others = tuple(f for f in plan.functions if f.name != "policy_loss")
    with pytest.raises(DiagnosticError) as caught:
        executor(msgspec.structs.replace(plan, functions=(*others, mine)), tmp_path).run_step(0)
    found = caught.value.diagnostics[0]
    assert found.code == "RL0706" and said in found.message
    assert found.span is not None and (found.span.file, found.span.line) == (str(tmp_path / "mine.py"), 3)


def test_prompts_of_fields(tmp_path: Path) -> None:
    found = prompts_of(blocks(tmp_path))
    assert {found[name] for name in ("tokens", "advantages", "keep.1.score")} == {8}
    assert found["test.score"] == found["test.completions"] == TEST


def test_what_is_logged_of_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Samples] = {}
    done: list[torch.Tensor] = []

    def kept(method: Callable[..., Samples]) -> Callable[..., Samples]:
        def call(sampler: Sampler, *args: Any, **more: Any) -> Samples:
            op = next(a for a in args if isinstance(a, (GenerateOp, ExtendOp)))
            made[op.id] = method(sampler, *args, **more)
            done.extend([args[4]] if isinstance(op, ExtendOp) else [])
            return made[op.id]

        return call

    for name in ("generate", "extend"):
        monkeypatch.setattr(Sampler, name, kept(getattr(Sampler, name)))
    job = executor(blocks(tmp_path), tmp_path, steps=4)
    first, second = job.run_step(0), job.run_step(1)
    rollout = next(n for n in made if n.startswith("keep.1"))
    logp, mask = made[rollout].rollout_logp, made[rollout].response_mask
    assert second[f"{rollout}/entropy"] == pytest.approx(-float(logp.values[mask.values].mean()), rel=1e-6)
    lengths = [int(row.sum()) for row in mask.rows()]
    assert second[f"{rollout}/response_length"] == sum(lengths) / len(lengths)
    ends = [int(row[-1]) in job.runtime.samplers["actor", 1].stops for row in made[rollout].tokens.rows()]
    assert second[f"{rollout}/truncated"] == ends.count(False) / len(ends) > 0
    # Of a later response only the rows that were not done count; of a block that does not run nothing does.
    (extended,) = (n for n in made if n not in job_ops(job, GenerateOp))
    assert made[extended].drawn.rows == int((~done[0]).sum())
    assert first[f"{extended}/response_length"] == made[extended].drawn.tokens / made[extended].drawn.rows
    assert (
        second[f"{extended}/response_length"]
        is second[f"{extended}/truncated"]
        is second[f"{extended}/entropy"]
        is None
    )


def job_ops(job: Executor, kind: type[AnyOp]) -> set[str]:
    return {op.id for op in job.runtime.plan.ops() if isinstance(op, kind)}
