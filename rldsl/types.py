"""The vocabulary of rldsl: roles, node types, field types, and the annotations that spell them.

Nothing here imports torch: a laptop without it checks and compiles. The aliases at the end
(`Text`, `PerToken`, ...) are for annotations; at run time they are `Annotated` types whose metadata
is a `FieldType`, and a type checker sees the tensor or list that a function really gets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any


class Role(StrEnum):
    """What part a node plays in the algorithm. Users may name their own with a plain string."""

    ACTOR = "ACTOR"
    CRITIC = "CRITIC"
    REWARD = "REWARD"
    REFERENCE = "REFERENCE"
    ADVANTAGE = "ADVANTAGE"


class NodeType(StrEnum):
    """What kind of work a node does."""

    MODEL_INFERENCE = "MODEL_INFERENCE"
    MODEL_TRAIN = "MODEL_TRAIN"
    COMPUTE = "COMPUTE"


class DType(StrEnum):
    """Element type of a field."""

    F32 = "f32"
    I64 = "i64"
    BOOL = "bool"
    TEXT = "text"


PROMPT = "prompt"
SAMPLE = "sample"
TOKEN = "token"
UNITS = (PROMPT, SAMPLE)

_TYPE = re.compile(r"\s*(?P<dtype>\w+)\s*\[\s*(?P<axes>\w+(?:\s*,\s*\w+)*)\s*\]\s*")


@dataclass(frozen=True, slots=True)
class FieldType:
    """dtype and named axes. The first axis is the unit; a second one, `token`, is ragged."""

    dtype: DType
    axes: tuple[str, ...]

    @property
    def unit(self) -> str:
        """`prompt` or `sample`: what one row is."""
        return self.axes[0]

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length along `token`."""
        return len(self.axes) > 1

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(self.axes)}]"

    @classmethod
    def parse(cls, text: str) -> FieldType:
        """Read `f32[sample, token]`. Raises ValueError, saying what is wrong, on anything else."""
        return _field_type(text)

    @classmethod
    def _read(cls, text: str) -> FieldType:
        match = _TYPE.fullmatch(text)
        if match is None:
            raise ValueError(f"`{text}` is not a type; write a dtype and axes, such as `f32[sample, token]`")
        axes = tuple(part.strip() for part in match["axes"].split(","))
        if match["dtype"] not in set(DType):
            raise ValueError(f"unknown dtype `{match['dtype']}`; the dtypes are {', '.join(DType)}")
        if axes[0] not in UNITS or axes[1:] not in ((), (TOKEN,)):
            raise ValueError(f"axes must be `prompt` or `sample`, then at most `token`; found `{', '.join(axes)}`")
        return cls(DType(match["dtype"]), axes)


@lru_cache(maxsize=256)
def _field_type(text: str) -> FieldType:
    """There are few types, and each is read for every field that has it."""
    return FieldType._read(text)


class TokenLoss(NamedTuple):
    """What a loss function returns.

    `loss` is f32[rows, tokens], not yet reduced: the engine averages it over all response tokens of the
    minibatch on all ranks, so a loss cannot be normalised wrongly. `metrics` are tensors of the
    same shape, averaged the same way.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = MappingProxyType({})


Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all data-parallel ranks; a function that has such a parameter gets it from the runtime."""

_F = TypeVar("_F", bound=Callable[..., Any])


def vanishes_where_zero(field: str, *, unless: tuple[str, ...] = ()) -> Callable[[_F], _F]:
    """Promise of a loss: rows where `field` is 0 add nothing to the gradient, if none of `unless` is given.

    The compiler then skips those rows' forward and backward passes; they still count in the mean.
    """
    del field, unless  # read from the source by the compiler, see rldsl.compiler.signature
    return lambda function: function


Text = Annotated[list[str], FieldType(DType.TEXT, (SAMPLE,))]
PromptText = Annotated[list[str], FieldType(DType.TEXT, (PROMPT,))]
PerPrompt = Annotated[Tensor, FieldType(DType.F32, (PROMPT,))]
PromptFlag = Annotated[Tensor, FieldType(DType.BOOL, (PROMPT,))]
SampleFlag = Annotated[Tensor, FieldType(DType.BOOL, (SAMPLE,))]
PerSample = Annotated[Tensor, FieldType(DType.F32, (SAMPLE,))]
PerToken = Annotated[Tensor, FieldType(DType.F32, (SAMPLE, TOKEN))]
TokenIds = Annotated[Tensor, FieldType(DType.I64, (SAMPLE, TOKEN))]
Mask = Annotated[Tensor, FieldType(DType.BOOL, (SAMPLE, TOKEN))]

# The fields that nearly every algorithm has, under the names the field uses for them.
Prompts = Annotated[PromptText, "prompts"]
Answers = Annotated[PromptText, "answers"]
Completions = Annotated[Text, "completions"]
Observation = Annotated[Text, "observation"]
Done = Annotated[SampleFlag, "done"]
Score = Annotated[PerSample, "score"]
Baseline = Annotated[PerPrompt, "baseline"]
RolloutLogp = Annotated[PerToken, "rollout_logp"]
OldLogp = Annotated[PerToken, "old_logp"]
TeacherLogp = Annotated[PerToken, "teacher_logp"]
RefLogp = Annotated[PerToken, "ref_logp"]
Values = Annotated[PerToken, "values"]
Rewards = Annotated[PerToken, "rewards"]
Advantages = Annotated[PerToken, "advantages"]
GroupAdvantages = Annotated[PerSample, "advantages"]
Returns = Annotated[PerToken, "returns"]


class Rollout(NamedTuple):
    """What `policy.generate` writes."""

    tokens: TokenIds
    response_mask: Mask
    rollout_logp: PerToken
    completions: Text


class Metrics(NamedTuple):
    """What `model.train` returns: nothing that flows, only numbers for the log."""
