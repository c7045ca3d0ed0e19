"""Low-rank adapters (arXiv 2106.09685): put into a model's trunk by `peft`, and merged into plain weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rldsl.backends.engines import require
from rldsl.backends.engines.sources import quiet, seeded
from rldsl.compiler.plan import ModelSpec
from rldsl.diagnostics import did_you_mean, fail

ALL_LINEAR = "all-linear"
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


def is_adapter(name: str) -> bool:
    """Whether this parameter is of an adapter."""
    return name.endswith((_A, _B))


def alpha(spec: ModelSpec) -> float:
    """By how much, over the rank, an adapter's product is scaled; twice the rank where the plan has 0."""
    return spec.lora_alpha or 2.0 * spec.lora_rank


def add_adapters(module: PreTrainedModel, spec: ModelSpec, *, seed: int) -> None:
    """Put adapters of rank `spec.lora_rank` beside the linear layers of the trunk; what it computes is unchanged.

    The first factor is random by `seed`, equal on all ranks, and the second 0. RL0601 without `peft`, RL0404 for a
    target that no linear layer of the trunk has.
    """
    require("peft")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=alpha(spec),  # type: ignore[arg-type]  # declared an int; only ever divided by the rank
        target_modules=_targets(module, spec),
        lora_dropout=0.0,
    )
    with seeded(seed), quiet():
        inject_adapter_in_model(config, module)


def _targets(module: PreTrainedModel, spec: ModelSpec) -> list[str]:
    """The last parts of the names of the layers meant, such as `q_proj`."""
    # The head is no target: log-probs are computed from its weight alone, without holding all logits.
    trunk: Any = module.base_model
    linear = [name for name, m in trunk.named_modules() if isinstance(m, nn.Linear)]
    known = sorted({name.rpartition(".")[2] for name in linear})
    asked = [t.strip() for t in (spec.lora_targets or ALL_LINEAR).split(",") if t.strip()]
    if not known or not asked:
        _refuse(spec, spec.lora_targets, known)
    if asked == [ALL_LINEAR]:
        return known
    for target in asked:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            _refuse(spec, target, known)
    return asked


def _refuse(spec: ModelSpec, target: str, known: Iterable[str]) -> None:
    near = did_you_mean(target, known)
    fail(
        "RL0404",
        f"model `{spec.name}`: `lora_targets` names no linear layer of its trunk" + (f"; {near}" if near else ""),
        expected=", ".join([f"`{ALL_LINEAR}`, or some of", *known]) if known else "a model with linear layers",
        found=f'"{target}"',
    )


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Inside, adapted layers of `module` compute as if they never had been, to the bit.

    Nothing is copied or moved, and under FSDP2 each layer is gathered as it is otherwise. For forwards alone: what
    requires a gradient stays as it is.
    """
    layers: list[Any] = [m for m in module.modules() if isinstance(getattr(m, "base_layer", None), nn.Module)]
    for layer in layers:
        layer.forward = layer.base_layer.forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def plain(
    weights: Mapping[str, Tensor], spec: ModelSpec, whole: Callable[[Tensor], Tensor], *, merged: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its plain name, as `whole` gives it; if `merged`, with its adapter W + alpha / rank * B A, in
    float32.

    One after the other, so that of the weights that `whole` gathers few need be held at a time.
    """
    for name, weight in weights.items():
        layer, adapted, leaf = name.partition(_BASE)
        if adapted and leaf == "weight" and merged:
            a, b = (whole(weights[layer + end]).float() for end in (_A, _B))
            scale = alpha(spec) / spec.lora_rank
            yield f"{layer}.{leaf}", torch.addmm(whole(weight).float(), b, a, alpha=scale)
        elif not is_adapter(name):
            yield f"{layer}.{leaf}" if adapted else name, whole(weight)
