"""One rank in this process: no peers, no launcher."""

from __future__ import annotations

from pathlib import Path

from rldsl.backends.engines import require
from rldsl.backends.environment import prepare_torch
from rldsl.backends.fits import check_world_size
from rldsl.backends.observer import Observer, Silent
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import fail


def run(
    plan: Plan,
    *,
    steps: int,
    world_size: int,
    run_dir: Path,
    observer: Observer | None,
    source_dir: Path,
    timeout_s: float,
) -> None:
    """Run `plan` for `steps` steps. Raises RL0601, RL0707 and what the executor raises."""
    if world_size != 1:
        fail(
            "RL0707",
            f"the local backend runs one rank, not {world_size}",
            fix=f"add `--backend torchrun -n {world_size}`",
        )
    prepare_torch()
    require("torch", "transformers", "torchdata")
    from rldsl.backends.comm import Comm  # torch is known to be there only now
    from rldsl.backends.executor import Executor
    from rldsl.backends.rendezvous import Place
    from rldsl.backends.worker import device_of

    check_world_size(plan, 1)
    comm, seen = Comm.alone(device_of(Place())), observer or Silent()
    seen.on_start(plan, steps)
    try:
        Executor(plan, comm, steps=steps, source_dir=source_dir, run_dir=run_dir, observer=seen).run()
    finally:
        seen.on_end()
