"""What RL0813 suggests is right: whoever writes it is told of nothing else."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, check_file
from rldsl.diagnostics import Diagnostic

PPO = Path(__file__).parents[2] / "examples" / "ppo.rl"
MODELS = {"SmolLM2-135M": "HuggingFaceTB/SmolLM2-135M", "7B": "Qwen/Qwen2.5-7B", "30B-A3B": "Qwen/Qwen3-30B-A3B"}


def checked(model: str, ranks: int, layout: str) -> list[Diagnostic]:
    settings = (f"model={MODELS[model]}", "batch=96", "minibatch=96")
    disable = frozenset({"plan_memory"})  # whether it fits is another question
    options = Options(settings=settings, cluster=f"{ranks} x h100", layouts=(layout,), disable=disable)
    return [d for d in check_file(PPO, options) if d.severity == "error"]


def written(layout: str, expected: str) -> list[str]:
    """The layout with each of the suggestions."""
    first, *others = expected.split(" or ")
    axis = first.split(" = ")[0]
    each = [first, *(o if "=" in o else f"{axis} = {o}" for o in others)]
    made = []
    for suggestion in each:
        text = layout
        for name, size in re.findall(r"(\w+) = (\d+)", suggestion):
            text = re.sub(rf"\b{name} = \d+", f"{name} = {size}", text)
        made.append(text)
    return made


LAYOUTS = [
    "actor.train : megatron(tp = 8, pp = 4)",
    "actor.train : megatron(tp = 4, pp = 8)",
    "actor.train : megatron(tp = 4, cp = 2, pp = 4)",
    "actor.train : megatron(tp = 8, pp = 4, dp = 1)",
    "actor.train : megatron(tp = 2, pp = 8, ep = 3)",
    "actor.generate : vllm(tp = 16, dp = 2)",
    "actor.generate : vllm(tp = 8)",
    "actor.generate : vllm(tp = 3)",
    "actor.train : megatron(tp = 12, pp = 2)",
    "actor.train : megatron(ep = 3)",
    "actor.train : megatron(pp = 32)",
]


def test_suggestions_lead_to_no_other_error() -> None:
    tried = 0
    for model, ranks, layout in product(MODELS, (24, 32, 48), LAYOUTS):
        found = [d for d in checked(model, ranks, layout) if d.code == "RL0813" and " = " in (d.expected or "")]
        for expected in {d.expected or "" for d in found}:
            for suggestion in written(layout, expected):
                fixed = suggestion if model == "30B-A3B" else re.sub(r"(, )?ep = \d+", "", suggestion)
                assert not checked(model, ranks, fixed), (model, ranks, layout, expected)
                tried += 1
    assert tried > 30


@pytest.mark.parametrize(
    ("ranks", "layout", "expected"),
    [
        # 9 heads, 3 key heads, 30 layers: of the divisors of 9 and 30 few divide 32.
        (32, "actor.train : megatron(tp = 8, pp = 4)", {"tp = 1 and pp = 2 or tp = 1 and pp = 1"}),
        (24, "actor.train : megatron(tp = 8)", {"tp = 3"}),
        (24, "actor.train : megatron(tp = 2, dp = 12)", {"tp = 3 and dp = 8 or tp = 1 and dp = 24"}),
        # Neither 3 nor 9 divides 64, and over 64 ranks of their own 96 prompts do not divide.
        (64, "actor.train : megatron(tp = 8)", {"a divisor of 9"}),
    ],
)
def test_what_is_suggested(ranks: int, layout: str, expected: set[str]) -> None:
    found = checked("SmolLM2-135M", ranks, layout)
    assert {d.expected for d in found if d.code == "RL0813"} == expected
