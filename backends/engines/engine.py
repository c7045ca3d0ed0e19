"""What the executor asks of an engine: models, and what samples from them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.compiler.plan import ModelSpec


class _Load(Protocol):
    def __call__(
        self, spec: ModelSpec, *, comm: Comm, seed: int, heads: list[ModelSpec], trunk: Model | None
    ) -> Model: ...


class _MakeSampler(Protocol):
    def __call__(self, model: Model, *, seed: int, staleness: int = 0) -> Sampler: ...


class Engine(NamedTuple):
    """`load` as `Model.load`, `sampler` as `Sampler`: another engine gives classes derived from these."""

    load: _Load = Model.load
    sampler: _MakeSampler = Sampler


TRANSFORMERS = Engine()
"""Models of transformers, sharded by FSDP2."""
