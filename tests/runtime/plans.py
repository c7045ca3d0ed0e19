"""Plans written by hand, small enough to run in seconds: GRPO on a scratch model, and one that only computes."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import msgspec

from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    OffloadOp,
    OnloadOp,
    ReshardOp,
    SaveOp,
    Scalar,
    SourceSpec,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import (
    FieldSpec,
    FunctionSpec,
    Group,
    MemoryPlan,
    ModelSpec,
    OpMemory,
    Plan,
    Program,
    StateSpec,
)
from rldsl.compiler.ranks import move_kind
from rldsl.diagnostics import DiagnosticError

BATCH, GROUP = 8, 4
TEXT_P, TEXT_S, SCORE = "text[prompt]", "text[sample]", "f32[sample]"
TOKENS = "i64[sample, token]"


def write_task(folder: Path, rows: int = 16) -> SourceSpec:
    """Copy a digit: `3=` wants `3`."""
    text = "\n".join(f'{{"prompts": "{i % 10}=", "answers": "{i % 10}"}}' for i in range(rows))
    (folder / "task.jsonl").write_text(text)
    return SourceSpec(kind="jsonl", args={"path": "task.jsonl"})


def user_function(folder: Path, body: str, *, name: str = "user", per_row: bool = False) -> FunctionSpec:
    """A function of the user's own, in a file beside the source."""
    path = folder / "mine.py"
    path.write_text(f"{body}\n\ndef sink(score):\n    return ()\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FunctionSpec(name=name, file="mine.py", sha256=digest, per_row=per_row)


def field(name: str, kind: str, producer: str, per_prompt: int = GROUP) -> FieldSpec:
    return FieldSpec(name=name, type=kind, producer=producer, per_prompt=per_prompt)


def grpo(
    folder: Path, *, generate_on: int | None = None, world: int | None = None, save: bool = True, lr: float = 1e-2
) -> Plan:
    """GRPO with log-probs of the old policy inferred; `generate_on` ranks of `world` generate."""
    group = "actor.generate" if generate_on else "world"
    before: tuple[AnyOp, ...] = ()
    after: tuple[AnyOp, ...] = ()
    moved = ("tokens", "response_mask", "completions")
    if generate_on:
        before = (ReshardOp(id="reshard:a", fields=("prompts",), source="world", target=group, batch=BATCH),)
        after = (ReshardOp(id="reshard:b", fields=moved, source=group, target="world", batch=BATCH),)
    ops: tuple[AnyOp, ...] = (
        LoadOp(id="load", source=write_task(folder), columns=("prompts", "answers"), batch=BATCH),
        SyncWeightsOp(id="sync", model="actor", sync=SyncKind.ALL_GATHER),
        *before,
        GenerateOp(
            id="rollout", node="rollout", group=group, model="actor", prompts="prompts", n=GROUP, max_new_tokens=6,
            temperature=1.0, outputs={f: f for f in moved},
        ),
        FreeOp(id="free:1", group=group, fields=("prompts",)),
        *after,
        ComputeOp(
            id="reward", node="reward", function="char_accuracy", per_prompt=GROUP, outputs=("score",),
            args=(Arg(param="completions", field="completions"), Arg(param="answers", field="answers")),
        ),
        FreeOp(id="free:2", fields=("completions", "answers")),
        InferOp(
            id="old", node="old", model="actor", method=InferMethod.LOGPROB, tokens="tokens",
            response_mask="response_mask", output="old_logp",
        ),
        ComputeOp(
            id="advantage", node="advantage", function="group_advantage", per_prompt=GROUP, outputs=("advantages",),
            args=(Arg(param="score", field="score"),), params={"group": GROUP},
        ),
        TrainOp(
            id="update", node="update", model="actor", tokens="tokens", response_mask="response_mask", loss="policy_loss",
            args=(
                Arg(param="old_logp", field="old_logp"), Arg(param="advantages", field="advantages"), Arg(param="ref_logp")
            ),
            lr=lr, batch=BATCH, minibatch=4, epochs=4, skip_where_zero="advantages",
        ),
    )  # fmt: skip
    saving: tuple[AnyOp, ...] = (SaveOp(id="save", model="actor", path="checkpoint"),) if save else ()
    freed = FreeOp(id="free:3", fields=("tokens", "response_mask", "score", "old_logp", "advantages"))
    programs = _programs((*ops, freed, *saving), generate_on, world)
    groups = (Group(name="world"), *((Group(name=group, ranks=((0, generate_on),)),) if generate_on else ()))
    return settled(
        Plan(
            algorithm="grpo",
            parameters={},
            world_size=world,
            divides=4,
            models=(scratch("actor"),),
            fields=(
                field("prompts", TEXT_P, "load", 1),
                field("answers", TEXT_P, "load", 1),
                field("tokens", TOKENS, "rollout"),
                field("response_mask", "bool[sample, token]", "rollout"),
                field("completions", TEXT_S, "rollout"),
                field("score", SCORE, "reward"),
                field("old_logp", "f32[sample, token]", "old"),
                field("advantages", SCORE, "advantage"),
            ),
            functions=(
                FunctionSpec(name="char_accuracy", module="rldsl.algos.rewards", per_row=True),
                FunctionSpec(name="group_advantage", module="rldsl.algos.advantages"),
                FunctionSpec(name="policy_loss", module="rldsl.algos.losses"),
            ),
            groups=groups,
            programs=programs,
        )
    )


def settled(plan: Plan) -> Plan:
    """With the kinds of its moves and the far ends of its transfers, as its groups call for."""
    rollouts = {op.model: op.group for op in plan.ops() if isinstance(op, (GenerateOp, ExtendOp))}

    def change(op: AnyOp) -> AnyOp:
        if isinstance(op, ReshardOp):
            kind = move_kind(plan.group(op.source), plan.group(op.target), plan.world_size)
            return msgspec.structs.replace(op, kind=kind)
        return msgspec.structs.replace(op, target=rollouts[op.model]) if isinstance(op, SyncWeightsOp) else op

    programs = (msgspec.structs.replace(p, ops=tuple(map(change, p.ops))) for p in plan.programs)
    return msgspec.structs.replace(plan, programs=tuple(programs))


def scratch(name: str) -> ModelSpec:
    args: dict[str, Scalar] = {"alphabet": "0123456789=+ ", "hidden": 32, "layers": 2, "heads": 2, "seed": 0}
    return ModelSpec(name=name, kind="policy", source="scratch", source_args=args)


def _programs(ops: tuple[AnyOp, ...], generate_on: int | None, world: int | None) -> tuple[Program, ...]:
    if generate_on is None:
        return (Program(ops=ops),)
    others = tuple(op for op in ops if op.group == "world")
    return Program(first=0, last=generate_on, ops=ops), Program(first=generate_on, last=world, ops=others)


def only_compute(folder: Path, function: FunctionSpec, *, reduces: bool = False, inputs: str = "prompts") -> Plan:
    """Load, then one function of the user's on each prompt: no model, so a process starts fast."""
    ops: tuple[AnyOp, ...] = (
        LoadOp(id="load", source=write_task(folder), columns=("prompts",), batch=BATCH),
        ComputeOp(
            id="judge", node="judge", function=function.name, args=(Arg(param=inputs, field="prompts"),),
            outputs=("score",), reduces=reduces,
        ),
        # What is computed must be read by something.
        ComputeOp(id="sink", function="sink", args=(Arg(param="score", field="score"),), outputs=()),
        FreeOp(id="free", fields=("prompts", "score")),
    )  # fmt: skip
    return Plan(
        algorithm="only",
        parameters={},
        divides=BATCH,
        models=(),
        fields=(
            field("prompts", TEXT_P, "load", 1),
            field("score", "f32[prompt]", "judge", 1),
        ),
        functions=(function, msgspec.structs.replace(function, name="sink", per_row=False, reduces=False)),
        groups=(Group(name="world"),),
        programs=(Program(ops=ops),),
    )


def in_background(plan: Plan) -> Plan:
    """`only_compute` with its function in the background, waited for at once."""
    ops: list[AnyOp] = []
    for op in plan.programs[0].ops:
        if isinstance(op, ComputeOp) and op.id == "judge":
            ops.append(msgspec.structs.replace(op, background=True))
            ops.append(WaitOp(id="wait:judge", node="judge", begun="judge", holds=op.reads))
        else:
            ops.append(op)
    return msgspec.structs.replace(plan, programs=(msgspec.structs.replace(plan.programs[0], ops=tuple(ops)),))


def swapping(plan: Plan, *, ranks: int) -> Plan:
    """`grpo` with everything off the device whenever it may be: the rollout's weights are its own on several ranks."""
    weights, optimizer, engine = (partial(_moved, state=state) for state in State)
    drop_engine = (engine(OffloadOp, "engine", keep=False),) if ranks > 1 else ()
    around: dict[str, tuple[tuple[AnyOp, ...], tuple[AnyOp, ...]]] = {
        "sync": ((weights(OnloadOp, "sync"),), (weights(OffloadOp, "sync", keep=False),) if ranks > 1 else ()),
        "rollout": ((), drop_engine or (weights(OffloadOp, "rollout", keep=False),)),
        "old": ((weights(OnloadOp, "old"),), (weights(OffloadOp, "old", keep=False),)),
        "update": (
            (weights(OnloadOp, "update"), optimizer(OnloadOp, "update")),
            (weights(OffloadOp, "update"), optimizer(OffloadOp, "update")),
        ),
        "save": ((weights(OnloadOp, "save"),), (weights(OffloadOp, "save", keep=False),)),
    }

    def moves(op: AnyOp) -> tuple[AnyOp, ...]:
        before, after = around.get(op.id, ((), ()))
        return (*before, op, *after)

    programs = tuple(
        msgspec.structs.replace(p, ops=tuple(each for op in p.ops for each in moves(op))) for p in plan.programs
    )
    return measured(msgspec.structs.replace(plan, programs=programs), away=tuple(State)[: 3 if ranks > 1 else 2])


def early(plan: Plan) -> Plan:
    """Each onload in the background, begun as early as can be: behind the offload of its state, or first in the step."""

    def begun(ops: tuple[AnyOp, ...]) -> tuple[AnyOp, ...]:
        made: list[AnyOp] = []
        for op in ops:
            if not isinstance(op, OnloadOp):
                made.append(op)
                continue
            left = (i for i, o in enumerate(made) if isinstance(o, OffloadOp) and o.state is op.state)
            made.insert(max(left, default=-1) + 1, msgspec.structs.replace(op, background=True))
            made.append(WaitOp(id=f"wait:{op.id}", group=op.group, begun=op.id, holds=()))
        return tuple(made)

    programs = tuple(msgspec.structs.replace(p, ops=begun(p.ops)) for p in plan.programs)
    return msgspec.structs.replace(plan, programs=programs)


def _moved(kind: type[OnloadOp] | type[OffloadOp], at: str, *, state: State, **options: bool) -> OnloadOp | OffloadOp:
    word = "onload" if kind is OnloadOp else "offload"
    return kind(id=f"{word}:{state}:{at}", model="actor", state=state, bytes=1, **options)


def measured(plan: Plan, *, budget: int = 1 << 40, away: tuple[State, ...] = ()) -> Plan:
    """With a budget, and states that are `away` when a step begins."""
    told = (OpMemory(op=i, rank=0, workspace=1 << 20, resident=0, at="", categories={}) for i in ("old", "update"))
    memory = MemoryPlan(
        budget=budget,
        reserve=0,
        states=tuple(StateSpec(model="actor", state=s, group="world", bytes=1, resident=False) for s in away),
        ops=tuple(told),
        peak=1 << 20,
        peak_op="update",
        unplanned=1 << 20,
        unplanned_op="update",
        seconds={},
        moved_seconds=0.0,
        solver="",
    )
    return msgspec.structs.replace(plan, memory=memory)


def least(path: Path, ranks: int) -> int:
    """The least budget, in bytes, that an algorithm fits into on so many processors, to 64 KiB."""
    low, high = 0, 1 << 40
    while high - low > 1 << 16:
        middle = (low + high) // 2
        try:
            compile_file(path, Options(cluster=f"{ranks} x cpu", memory=middle))
            high = middle
        except DiagnosticError:
            low = middle
    return high
