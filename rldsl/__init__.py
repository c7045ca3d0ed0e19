"""rldsl: a compiler for reinforcement-learning post-training.

`import rldsl as rl` gives the decorator API; the command `rldsl` checks, compiles, shows and runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rldsl.diagnostics import did_you_mean
from rldsl.types import (
    Advantages,
    Answers,
    Baseline,
    Completions,
    Done,
    GroupAdvantages,
    Mask,
    Metrics,
    NodeType,
    Observation,
    OldLogp,
    PerPrompt,
    PerSample,
    PerToken,
    PromptFlag,
    Prompts,
    PromptText,
    Reduce,
    RefLogp,
    Returns,
    Rewards,
    Role,
    Rollout,
    RolloutLogp,
    SampleFlag,
    Score,
    TeacherLogp,
    Text,
    TokenIds,
    TokenLoss,
    Values,
    vanishes_where_zero,
)

if TYPE_CHECKING:
    from rldsl.api import (
        algorithm,
        check,
        compile,  # noqa: A004 - as the command is called
        count,
        deploy,
        function,
        graph,
        hf,
        inputs,
        jsonl,
        layout,
        lib,
        loop,
        metric,
        node,
        output,
        param,
        parquet,
        place,
        policy,
        reasoning_gym,
        reset,
        reward,
        scratch,
        use,
        validate,
        value,
    )

__version__ = "0.1.0"

ACTOR, CRITIC, REWARD, REFERENCE, ADVANTAGE = (
    Role.ACTOR,
    Role.CRITIC,
    Role.REWARD,
    Role.REFERENCE,
    Role.ADVANTAGE,
)
MODEL_INFERENCE, MODEL_TRAIN, COMPUTE = NodeType.MODEL_INFERENCE, NodeType.MODEL_TRAIN, NodeType.COMPUTE

__all__ = [
    "ACTOR",
    "ADVANTAGE",
    "COMPUTE",
    "CRITIC",
    "MODEL_INFERENCE",
    "MODEL_TRAIN",
    "REFERENCE",
    "REWARD",
    "Advantages",
    "Answers",
    "Baseline",
    "Completions",
    "Done",
    "GroupAdvantages",
    "Mask",
    "Metrics",
    "NodeType",
    "Observation",
    "OldLogp",
    "PerPrompt",
    "PerSample",
    "PerToken",
    "PromptFlag",
    "PromptText",
    "Prompts",
    "Reduce",
    "RefLogp",
    "Returns",
    "Rewards",
    "Role",
    "Rollout",
    "RolloutLogp",
    "SampleFlag",
    "Score",
    "TeacherLogp",
    "Text",
    "TokenIds",
    "TokenLoss",
    "Values",
    "algorithm",
    "check",
    "compile",
    "count",
    "deploy",
    "function",
    "graph",
    "hf",
    "inputs",
    "jsonl",
    "layout",
    "lib",
    "loop",
    "metric",
    "node",
    "output",
    "param",
    "parquet",
    "place",
    "policy",
    "reasoning_gym",
    "reset",
    "reward",
    "scratch",
    "use",
    "validate",
    "value",
    "vanishes_where_zero",
]


def __getattr__(name: str) -> Any:
    """The decorator API, imported when it is first used: the command line mostly does without."""
    if name not in __all__:
        hint = did_you_mean(name, __all__)
        raise AttributeError(f"module `rldsl` has no `{name}`" + (f"; {hint}" if hint else ""))
    return getattr(import_module("rldsl.api"), name)


def __dir__() -> list[str]:
    """What an editor or a notebook completes."""
    return sorted({*globals(), *__all__})
