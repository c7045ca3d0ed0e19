"""A plan written by hand that has everything blocks are lowered to: resampling, a second turn, a validation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    LoadOp,
    MetricOp,
    OutputOp,
    Reduction,
    ReshardOp,
    SaveOp,
    SyncKind,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.plan import FieldSpec, FunctionSpec, Group, Plan, Program
from tests.runtime.plans import (
    BATCH,
    GROUP,
    SCORE,
    TEXT_P,
    TEXT_S,
    TOKENS,
    field,
    scratch,
    settled,
    user_function,
    write_task,
)

ROUNDS, EVERY, TEST = 4, 2, 4
LOOP, VALIDATE = "keep", "test"
MASK, PER_TOKEN = "bool[sample, token]", "f32[sample, token]"
KEPT = {"tokens": TOKENS, "response_mask": MASK, "score": SCORE, "completions": TEXT_S, "prompts": TEXT_P}
MINE = """
def useful(score, *, group):
    rows = score.view(-1, group)
    return rows.amax(1) > rows.amin(1)

def none_is(score, *, group):
    return score.view(-1, group).amax(1) > 2

def ask(completions, answers):
    right = answers in completions
    return ("" if right else "+", right)
"""


def _functions(folder: Path, useful: str) -> tuple[FunctionSpec, ...]:
    mine = user_function(folder, MINE, name=useful)
    return (
        mine,
        msgspec.structs.replace(mine, name="ask", per_row=True),
        FunctionSpec(name="char_accuracy", module="rldsl.algos.rewards", per_row=True),
        FunctionSpec(name="group_advantage", module="rldsl.algos.advantages"),
        FunctionSpec(name="policy_loss", module="rldsl.algos.losses"),
    )


def _round(folder: Path, number: int, useful: str, generate_on: int | None) -> Iterator[AnyOp]:
    guard, group = Guard(until=LOOP), "dp" if generate_on else "world"

    def at(name: str) -> str:
        return f"{LOOP}.{number}.{name}"

    made = tuple(at(n) for n in ("tokens", "response_mask", "completions"))
    yield LoadOp(
        id=at("load"), source=write_task(folder, 40), columns=(at("prompts"), at("answers")), batch=BATCH, stream="load",
        names=("prompts", "answers"), round=number - 1, rounds=ROUNDS, guard=guard,
    )  # fmt: skip
    if generate_on:
        yield ReshardOp(id=at("there"), fields=(at("prompts"),), source="world", target=group, batch=BATCH, guard=guard)
    yield GenerateOp(
        id=at("rollout"), node=at("rollout"), group=group, model="actor", prompts=at("prompts"), n=GROUP,
        max_new_tokens=4, temperature=1.0, staleness=1, guard=guard,
        outputs=dict(zip(("tokens", "response_mask", "completions"), made, strict=True)),
    )  # fmt: skip
    if generate_on:
        back = (*made, at("prompts"))
        yield ReshardOp(id=at("back"), fields=back, source=group, target="world", batch=BATCH, guard=guard)
    yield ComputeOp(
        id=at("reward"), node=at("reward"), function="char_accuracy", per_prompt=GROUP, outputs=(at("score"),),
        args=(Arg(param="completions", field=at("completions")), Arg(param="answers", field=at("answers"))), guard=guard,
    )  # fmt: skip
    yield ComputeOp(
        id=at("useful"), node=at("useful"), function=useful, per_prompt=GROUP, outputs=(at("useful"),),
        args=(Arg(param="score", field=at("score")),), params={"group": GROUP}, guard=guard,
    )  # fmt: skip
    yield MetricOp(id=at("share"), name=f"{LOOP}.share", reduction=Reduction.MEAN, field=at("useful"), guard=guard)
    yield CollectOp(
        id=at("collect"), into=LOOP, where=at("useful"), fields={at(n): n for n in KEPT}, batch=BATCH, guard=guard
    )
    rest = (*made, at("prompts"), at("answers"), at("score"), at("useful"))
    yield FreeOp(id=at("free"), fields=rest, guard=guard)


def _validation(folder: Path) -> Iterator[AnyOp]:
    guard = Guard(every=EVERY)

    def at(name: str) -> str:
        return f"{VALIDATE}.{name}"

    outputs = {n: at(n) for n in ("tokens", "response_mask", "rollout_logp", "completions")}
    yield LoadOp(
        id=at("load"), source=write_task(folder, 40), columns=(at("prompts"), at("answers")), batch=TEST, stream="test",
        names=("prompts", "answers"), first=True, guard=guard,
    )  # fmt: skip
    yield GenerateOp(
        id=at("rollout"), node=at("rollout"), model="actor", prompts=at("prompts"), n=1, max_new_tokens=3,
        temperature=1.0, outputs=outputs, guard=guard,
    )  # fmt: skip
    yield ComputeOp(
        id=at("ask"), node=at("ask"), function="ask", outputs=(at("observation"), at("done")), guard=guard,
        args=(Arg(param="completions", field=at("completions")), Arg(param="answers", field=at("answers"))),
    )  # fmt: skip
    yield ExtendOp(
        id=at("again"), node=at("again"), model="actor", tokens=at("tokens"), response_mask=at("response_mask"),
        rollout_logp=at("rollout_logp"), observation=at("observation"), done=at("done"), max_new_tokens=3,
        temperature=1.0, outputs={n: at(f"talk.{n}") for n in outputs}, guard=guard,
    )  # fmt: skip
    # Rows of samples as prompts.
    yield GenerateOp(
        id=at("echo"), node=at("echo"), model="actor", prompts=at("observation"), n=1, max_new_tokens=2, temperature=0.0,
        outputs={"completions": at("echoed")}, guard=guard,
    )  # fmt: skip
    yield ComputeOp(
        id=at("reward"), node=at("reward"), function="char_accuracy", outputs=(at("score"),), guard=guard,
        args=(Arg(param="completions", field=at("talk.completions")), Arg(param="answers", field=at("answers"))),
    )  # fmt: skip
    yield MetricOp(id=at("accuracy"), name=at("accuracy"), reduction=Reduction.MEAN, field=at("score"), guard=guard)
    yield MetricOp(
        id=at("spread"), name=at("spread"), reduction=Reduction.STD, field=at("talk.rollout_logp"),
        mask=at("talk.response_mask"), guard=guard,
    )  # fmt: skip
    shown = (
        at("prompts"),
        at("talk.tokens"),
        at("talk.response_mask"),
        at("talk.completions"),
        at("done"),
        at("score"),
    )
    yield OutputOp(id=at("samples"), name=at("samples"), fields=(*shown, at("echoed")), guard=guard)
    rest = (*outputs.values(), *(at(f"talk.{n}") for n in outputs), at("observation"), at("echoed"))
    yield FreeOp(id=at("free"), fields=(*rest, at("prompts"), at("answers"), at("done"), at("score")), guard=guard)


def _training() -> Iterator[AnyOp]:
    yield TakeOp(id=LOOP, node=LOOP, collection=LOOP, outputs=tuple(KEPT), batch=BATCH)
    yield OutputOp(id="kept", name="kept", fields=("prompts", "completions", "score"), per_prompt=GROUP)
    yield SyncWeightsOp(id="sync:old", model="actor", sync=SyncKind.ALL_GATHER, staleness=1)
    yield ComputeOp(
        id="advantage", node="advantage", function="group_advantage", per_prompt=GROUP, outputs=("advantages",),
        args=(Arg(param="score", field="score"),), params={"group": GROUP},
    )  # fmt: skip
    yield TrainOp(
        id="update", node="update", model="actor", tokens="tokens", response_mask="response_mask", loss="policy_loss",
        args=(Arg(param="old_logp", current=True), Arg(param="advantages", field="advantages"), Arg(param="ref_logp")),
        lr=1e-2, batch=BATCH, minibatch=4,
    )  # fmt: skip
    yield FreeOp(id="free", fields=(*KEPT, "advantages"))
    yield SaveOp(id="save", model="actor", path="checkpoint")


def _fields() -> Iterator[FieldSpec]:
    for name, kind in KEPT.items():
        yield field(name, kind, LOOP, 1 if kind == TEXT_P else GROUP)
    yield field("advantages", SCORE, "advantage")
    for number in range(1, ROUNDS + 1):
        for name, kind in {**KEPT, "answers": TEXT_P, "useful": "bool[prompt]"}.items():
            yield field(f"{LOOP}.{number}.{name}", kind, LOOP, 1 if "prompt" in kind else GROUP)
    sequence = {"tokens": TOKENS, "response_mask": MASK, "rollout_logp": PER_TOKEN, "completions": TEXT_S}
    kinds = {
        **sequence, **{f"talk.{n}": k for n, k in sequence.items()}, "prompts": TEXT_P, "answers": TEXT_P,
        "observation": TEXT_S, "done": "bool[sample]", "score": SCORE, "echoed": TEXT_S,
    }  # fmt: skip
    for name, kind in kinds.items():
        yield field(f"{VALIDATE}.{name}", kind, VALIDATE, 1)


def blocks(folder: Path, *, generate_on: int | None = None, world: int | None = None, useful: str = "useful") -> Plan:
    """Rounds of rollouts by the weights of the step before, until enough groups have spread; every other step a test."""
    ops: tuple[AnyOp, ...] = (
        SyncWeightsOp(id="sync", model="actor", sync=SyncKind.ALL_GATHER),
        *(op for number in range(1, ROUNDS + 1) for op in _round(folder, number, useful, generate_on)),
        *_validation(folder),
        *_training(),
    )
    programs: tuple[Program, ...] = (Program(ops=ops),)
    if generate_on:
        others = tuple(op for op in ops if op.group == "world")
        programs = (Program(first=0, last=generate_on, ops=ops), Program(first=generate_on, last=world, ops=others))
    return settled(
        Plan(
            algorithm="blocks",
            parameters={},
            world_size=world,
            divides=4,
            seed=5,
            models=(scratch("actor"),),
            fields=tuple(_fields()),
            functions=_functions(folder, useful),
            groups=(Group(name="world"), *((Group(name="dp", ranks=((0, generate_on),)),) if generate_on else ())),
            programs=programs,
        )
    )
