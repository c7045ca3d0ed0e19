"""Activation checkpointing (arXiv 1604.06174) of a model's layers, for as long as one op runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from rldsl.compiler.ops import Recompute


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of a transformers model: the modules that it asks not to be split."""
    names = set(model._no_split_modules or ())
    # FSDP gives each a class derived from its own.
    return [m for m in model.modules() if names & {c.__name__ for c in type(m).__mro__}]


@contextmanager
def recomputing(scorer: Any, kind: Recompute) -> Iterator[None]:
    """Inside, each layer of the model of `scorer` keeps its inputs and no or few activations, and runs again in the
    backward pass.

    Results and gradients are the same to the bit. Under FSDP2 a layer's weights are gathered around the backward pass
    anyway, and it runs again between: its hooks are outside of what is wrapped here.
    """
    layers = [] if kind is Recompute.NONE else layers_of(scorer.model)
    for layer in layers:
        forward: Any = partial(checkpoint, layer.forward, use_reentrant=False, **_options(kind))
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _options(kind: Recompute) -> dict[str, Any]:
    # Nothing in a layer is random: models are never in training mode.
    options: dict[str, Any] = {"preserve_rng_state": False}
    if kind is Recompute.SELECTIVE:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _kept)
    return options


def _kept(_: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    """Products and attention are kept, what costs little is made again."""
    return CheckpointPolicy.MUST_SAVE if op.overloadpacket in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE


_ATEN = torch.ops.aten
_DEAR = frozenset(
    {
        _ATEN.mm,
        _ATEN.addmm,
        _ATEN._grouped_mm,
        _ATEN._scaled_dot_product_flash_attention_for_cpu,
        _ATEN._scaled_dot_product_flash_attention,
        _ATEN._scaled_dot_product_efficient_attention,
        _ATEN._scaled_dot_product_cudnn_attention,
    }
)
