"""What a graph can call besides functions: methods of models, sources of weights and of rows, engines, clusters."""

from __future__ import annotations

from dataclasses import dataclass

from rldsl.compiler.ir import Method, ModelKind
from rldsl.compiler.ops import Aggregate, Recompute, Scalar
from rldsl.compiler.plan import Phase
from rldsl.compiler.signature import FieldParam
from rldsl.types import PROMPT, SAMPLE, TOKEN, DType, FieldType

_TEXT_PROMPT = FieldType(DType.TEXT, (PROMPT,))
_TOKENS = FieldType(DType.I64, (SAMPLE, TOKEN))
_MASK = FieldType(DType.BOOL, (SAMPLE, TOKEN))
_PER_TOKEN = FieldType(DType.F32, (SAMPLE, TOKEN))
_NUMBERS = tuple(
    FieldType(dtype, axes)
    for dtype in (DType.F32, DType.I64, DType.BOOL)
    for axes in ((PROMPT,), (SAMPLE,), (SAMPLE, TOKEN))
)
_TEXT_SAMPLE = FieldType(DType.TEXT, (SAMPLE,))
_SEQUENCE = (FieldParam(name="tokens", types=(_TOKENS,)), FieldParam(name="response_mask", types=(_MASK,)))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A named value that a call takes: type, default, range, choices. `optional`: `none` will do."""

    name: str
    type: str
    default: Scalar = None
    required: bool = False
    optional: bool = False
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    unit: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """What a method reads, writes and takes, and the kinds of model that have it (none: a statement's)."""

    kinds: tuple[ModelKind, ...]
    inputs: tuple[FieldParam, ...]
    outputs: tuple[tuple[str, FieldType], ...] = ()
    keywords: tuple[Setting, ...] = ()
    options: tuple[Setting, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """A source of weights or of rows. `open_ended`: passes further keywords on as they are."""

    args: tuple[Setting, ...] = ()
    keywords: tuple[Setting, ...] = ()
    open_ended: bool = False


_TEMPERATURE = Setting(name="temperature", type="float", above=0.0)
_ROLLOUT = (
    ("tokens", _TOKENS),
    ("response_mask", _MASK),
    ("rollout_logp", _PER_TOKEN),
    ("completions", _TEXT_SAMPLE),
)
_SAMPLING = (
    Setting(name="max_new_tokens", type="int", required=True, least=1, unit="tokens"),
    # Of a prompt, or of what is appended; 0 for no limit. Memory is planned by it.
    Setting(name="max_prompt_tokens", type="int", default=0, least=0, unit="tokens"),
    # 0 is greedy decoding.
    Setting(name="temperature", type="float", default=1.0, least=0.0),
    Setting(name="top_p", type="float", default=1.0, above=0.0, most=1.0),
    Setting(name="top_k", type="int", default=0, least=0),
    # Steps by which the weights may be older than those the step began with.
    Setting(name="staleness", type="int", default=0, least=0, most=1),
)

METHODS: dict[Method, MethodSpec] = {
    Method.GENERATE: MethodSpec(
        kinds=(ModelKind.POLICY,),
        inputs=(FieldParam(name="prompts", types=(_TEXT_PROMPT, _TEXT_SAMPLE)),),
        outputs=_ROLLOUT,
        keywords=(Setting(name="n", type="int", default=1, least=1, unit="samples"), *_SAMPLING),
    ),
    Method.EXTEND: MethodSpec(
        kinds=(ModelKind.POLICY,),
        inputs=(
            *_SEQUENCE,
            FieldParam(name="rollout_logp", types=(_PER_TOKEN,)),
            FieldParam(name="observation", types=(_TEXT_SAMPLE,)),
            FieldParam(name="done", types=(FieldType(DType.BOOL, (SAMPLE,)),), optional=True),
        ),
        outputs=_ROLLOUT,
        keywords=_SAMPLING,
    ),
    Method.LOGPROB: MethodSpec(
        kinds=(ModelKind.POLICY,), inputs=_SEQUENCE, outputs=(("logp", _PER_TOKEN),), keywords=(_TEMPERATURE,)
    ),
    Method.VALUE: MethodSpec(kinds=(ModelKind.VALUE,), inputs=_SEQUENCE, outputs=(("values", _PER_TOKEN),)),
    Method.SCORE: MethodSpec(
        kinds=(ModelKind.REWARD,), inputs=_SEQUENCE, outputs=(("score", FieldType(DType.F32, (SAMPLE,))),)
    ),
    Method.TRAIN: MethodSpec(
        kinds=(ModelKind.POLICY, ModelKind.VALUE),
        inputs=_SEQUENCE,
        options=(
            Setting(name="lr", type="float", required=True, least=0.0),
            Setting(name="epochs", type="int", default=1, least=1),
            Setting(name="minibatch", type="int", least=1, unit="prompts"),
            Setting(name="weight_decay", type="float", default=0.0, least=0.0),
            Setting(name="beta1", type="float", default=0.9, least=0.0, below=1.0),
            Setting(name="beta2", type="float", default=0.95, least=0.0, below=1.0),
            Setting(name="max_grad_norm", type="float", default=1.0, above=0.0),
            Setting(name="aggregate", type="str", default=Aggregate.TOKEN_MEAN.value, choices=tuple(Aggregate)),
            # 0, or nothing said, leaves these to the compiler where a budget of memory is known, else to the engine.
            Setting(name="micro_batch_tokens", type="int", default=0, least=0, unit="tokens"),
            Setting(name="recompute", type="str", optional=True, choices=tuple(Recompute)),
            Setting(name="logits", type="int", default=0, least=0),
            Setting(name="save_every", type="int", default=0, least=0),
            _TEMPERATURE,
        ),
    ),
    Method.METRIC: MethodSpec(
        kinds=(),
        inputs=(
            FieldParam(name="field", types=_NUMBERS),
            FieldParam(name="mask", types=(_MASK,), optional=True),
        ),
    ),
    # These take any fields: `check_types` has rules of their own for them.
    Method.OUTPUT: MethodSpec(kinds=(), inputs=(), options=(Setting(name="every", type="int", default=1, least=1),)),
    Method.COLLECT: MethodSpec(kinds=(), inputs=()),
}

LORA: tuple[Setting, ...] = (
    Setting(name="lora_rank", type="int", default=0, least=1),
    Setting(name="lora_alpha", type="float", above=0.0),
    Setting(name="lora_targets", type="str", default="all-linear"),
)
"""Options of a model: train low-rank adapters (arXiv 2106.09685) in place of the weights; alpha is twice the rank."""

_PRECISION = Setting(name="precision", type="str", default="fp32", choices=("fp32", "bf16"))
MODEL_SOURCES: dict[str, SourceKind] = {
    "hf": SourceKind(args=(Setting(name="path", type="str", required=True),), keywords=(_PRECISION,)),
    "scratch": SourceKind(
        keywords=(
            Setting(name="alphabet", type="str", required=True),
            Setting(name="hidden", type="int", default=64, least=8),
            Setting(name="layers", type="int", default=2, least=1),
            Setting(name="heads", type="int", default=2, least=1),
            Setting(name="seed", type="int", default=0),
            _PRECISION,
        )
    ),
}
_FILE = SourceKind(
    args=(Setting(name="path", type="str", required=True),),
    keywords=(Setting(name="shuffle", type="bool", default=True), Setting(name="template", type="str")),
    open_ended=True,
)
DATA_SOURCES: dict[str, SourceKind] = {
    "reasoning_gym": SourceKind(args=(Setting(name="dataset", type="str", required=True),), open_ended=True),
    "jsonl": _FILE,
    "parquet": _FILE,
}

ENGINES: dict[Phase, tuple[str, ...]] = {
    Phase.TRAIN: ("fsdp", "megatron"),
    Phase.GENERATE: ("hf", "vllm", "sglang"),
    Phase.INFER: ("fsdp", "megatron"),
}
"""Engines by phase, the default first."""

ENGINE_AXES: dict[str, tuple[str, ...]] = {
    "fsdp": ("dp",),
    "hf": ("dp",),
    "megatron": ("dp", "tp", "pp", "cp", "ep"),
    "vllm": ("dp", "tp", "pp", "ep"),
    "sglang": ("dp", "tp", "pp", "ep"),
}
"""The parallel axes along which an engine can lay out a model."""

RUNNING_ENGINES = frozenset({"fsdp", "hf"})
"""Engines that this version runs; for the others it plans."""

CLUSTERS: dict[str, str] = {
    "cpu": "any processor",
    "gpu": "any CUDA device",
    "a100": "A100",
    "a100_40": "A100",
    "h100": "H100",
    "h200": "H200",
    "b200": "B200",
    "l40s": "L40S",
}
"""Kinds of hardware, and the words that must stand in the device's name for a plan to run there."""

OF_GPUS = ("disk_link", "disk_memory")
"""Figures that a processor has not: its `host_link` and `host_memory` are those of its disk."""

FIGURES: tuple[Setting, ...] = (
    *(
        Setting(name=name, type="float", above=0.0, most=1e9)
        for name in ("memory", "bf16", "fp32", "bandwidth", "link", "host_link", "host_memory", "network", *OF_GPUS)
    ),
    Setting(name="per_node", type="int", least=1, most=1e9),
    Setting(name="usable", type="float", above=0.0, most=1.0),
)
"""What a deployment can say of its hardware, in GiB, TFLOP/s and GB/s; the usual figures are in cost/hardware.py."""
