"""Runs of the examples on tiny models: by the executor, on one rank and on two, and by the reference interpreter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.executor import Executor
from rldsl.backends.observer import Silent
from rldsl.backends.reference import Reference, Step
from rldsl.compiler.ir import Module
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.unroll_loops import UnrollLoops
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostics
from tests.compiler.programs import EXAMPLES
from tests.examples.models import Models

STEPS = 2
NAMES = sorted(p.stem for p in EXAMPLES.glob("*.rl"))
# Small enough for two steps in a second or two, with rows to learn from, and with several optimiser steps where the
# example has them.
OWN: Mapping[str, tuple[str, ...]] = {
    "dapo": ("sampled=4",),
    "debate": ("batch=8",),
    "distill": ("teacher={teacher}", "lr=0.01"),
    "grpo": ("kl_coef=0.3",),
    "ppo": ("batch=8", "minibatch=4"),
    "ppo_reward_model": ("judge={judge}", "batch=8", "minibatch=4", "kl_coef=0.1"),
    "reinforce_pp": ("batch=8", "minibatch=4"),
    "remax": ("batch=8",),
    "gspo": ("batch=4",),
}

# What changes the graph: conditions that fold, loops of other lengths, other numbers of optimiser steps.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "dapo": ("tries=1",),
    "gspo": ("minibatch=4", "batch=4"),
    "grpo": ("kl_coef=0.0",),
    "ppo": ("kl_coef=0.0",),
    "ppo_reward_model": ("epochs=1", "minibatch=8", "batch=8"),
    "reinforce_pp": ("kl_coef=0.0",),
    "tools": ("turns=0",),
}
CASES = [(name, ()) for name in NAMES] + list(VARIANTS.items())


# Deployments in which models train and generate on ranks of their own, by number of ranks.
MORE_RANKS = ("dapo", "debate", "off_policy", "ppo", "tools", "validated")
APART: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    2: {
        # The critic trains where the actor generates.
        "ppo": ("actor.train : fsdp() on 0..0", "actor.generate : hf() on 1..1", "critic.train : fsdp() on 1..1"),
        # Each generates where the other trains.
        "debate": (
            "alice.train : fsdp() on 0..0",
            "alice.generate : hf() on 1..1",
            "bob.train : fsdp() on 1..1",
            "bob.generate : hf() on 0..0",
        ),
        # Rank 0, which writes the log, does not train.
        "grpo": ("actor.train : fsdp() on 1..1", "actor.generate : hf() on 0..0", "reference.infer : fsdp() on 0..0"),
        "distill": (
            "student.train : fsdp() on 0..0",
            "student.generate : hf() on 1..1",
            "master.infer : fsdp() on 1..1",
        ),
    },
    3: {
        # Rank 1 trains and generates.
        "ppo": ("actor.train : fsdp() on 0..1", "actor.generate : hf() on 1..2", "critic.train : fsdp() on 2..2"),
        "debate": (
            "alice.train : fsdp() on 0..0",
            "alice.generate : hf() on 2..2",
            "bob.train : fsdp() on 1..2",
            "bob.generate : hf() on 0..1",
        ),
    },
    4: {
        "debate": (
            "alice.train : fsdp() on 0..0",
            "alice.generate : hf() on 1..1",
            "bob.train : fsdp() on 2..2",
            "bob.generate : hf() on 3..3",
        ),
    },
}


def title(part: object) -> str:
    """Of a case, for pytest."""
    return " ".join(part) if isinstance(part, tuple) else str(part)


def settings(name: str, models: Models) -> tuple[str, ...]:
    """What `--set` says of an example."""
    rates = ("actor_lr=0.001", "critic_lr=0.001") if name == "ppo" else ("lr=0.001",)
    own = tuple(text.format(teacher=models.teacher, judge=models.judge) for text in OWN.get(name, ()))
    return (f"model={models.policy}", "precision=fp32", *rates, *own)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run wrote into its folder, and the fields of each step and the weights at the end."""

    plan: Plan
    folder: Path
    lines: list[dict[str, Any]]
    fields: list[dict[str, Column]]
    weights: dict[str, dict[str, Tensor]]


@dataclass
class _Fields(Buffer):
    """Remembers what was freed."""

    seen: dict[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def put(self, name: str, column: Column) -> None:
        self.seen[name] = column
        super().put(name, column)


class _Steps(Silent):
    """Keeps the fields of each step."""

    def __init__(self, buffer: _Fields) -> None:
        self._buffer = buffer
        self.fields: list[dict[str, Column]] = []

    def on_step(self, metrics: Mapping[str, float | None]) -> None:
        self.fields.append(self._buffer.seen)
        self._buffer.seen = {}


def compiled(name: str, models: Models, more: tuple[str, ...] = ()) -> Plan:
    return compile_file(EXAMPLES / f"{name}.rl", Options(settings=(*settings(name, models), *more))).plan


def executed(name: str, models: Models, folder: Path, more: tuple[str, ...] = ()) -> Run:
    """By the executor, on one rank; `more` settings than the usual."""
    plan, buffer = compiled(name, models, more), _Fields()
    seen = _Steps(buffer)
    made = Executor(plan, Comm.alone(), steps=STEPS, source_dir=EXAMPLES, run_dir=folder, observer=seen)
    made.runtime.buffer = buffer
    made.run()
    weights = {m: w.weights() for m, w in made.runtime.models.items()}
    return Run(plan=plan, folder=folder, lines=logged(folder), fields=seen.fields, weights=weights)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def apart(name: str, models: Models, ranks: int) -> Plan:
    """The example with training on other ranks than rollouts; usually rollouts have the last, two of four."""
    first = 2 if ranks > 2 else 1
    usual = (f"actor.train : fsdp() on 0..{first - 1}", f"actor.generate : hf() on {first}..{ranks - 1}")
    layouts = APART[ranks].get(name, usual)
    return compile_file(
        EXAMPLES / f"{name}.rl", Options(settings=settings(name, models), layouts=layouts, world_size=ranks)
    ).plan


def interpreted(
    name: str, models: Models, more: tuple[str, ...] = ()
) -> tuple[list[Step], dict[str, dict[str, Tensor]]]:
    """By the reference interpreter, on the graph as written: its steps, and the weights that it ends with."""
    reference = Reference(checked(name, models, more), source_dir=EXAMPLES, steps=STEPS)
    steps = [reference.step() for _ in range(STEPS)]
    return steps, {m: w.weights() for m, w in reference._models.items()}


def checked(name: str, models: Models, more: tuple[str, ...]) -> Module:
    """The module as the checks leave it, before any rewrite but that of loops."""
    seen: dict[str, Module] = {}
    options = Options(
        settings=(*settings(name, models), *more), observe=lambda name, module, _: seen.update({name: module})
    )
    compile_file(EXAMPLES / f"{name}.rl", options)
    return UnrollLoops().apply(seen["check_deploy"], Context(found=Diagnostics(), source_dir=EXAMPLES))


def on_each_rank(comm: Comm, folder: Path) -> dict[str, Any]:
    """All examples one after the other, on this rank of several; `folder` holds the models."""
    models = Models.within(folder)
    for name in NAMES:
        plan = compiled(name, models)
        Executor(plan, comm, steps=STEPS, source_dir=EXAMPLES, run_dir=folder / "runs" / name).run()
    return on_ranks_of_their_own(comm, folder)


def on_ranks_of_their_own(comm: Comm, folder: Path) -> dict[str, Any]:
    """All examples with training apart from rollouts, on more than two ranks some; checkpoints lie on one host."""
    models = Models.within(folder)
    for name in NAMES if comm.world_size == 2 else MORE_RANKS:
        plan = apart(name, models, comm.world_size)
        run_dir = folder / f"apart{comm.world_size}" / name
        Executor(plan, comm, steps=STEPS, source_dir=EXAMPLES, run_dir=run_dir).run()
    return {}
