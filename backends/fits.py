"""Whether a plan runs on so many ranks, with these engines, and on this hardware."""

from __future__ import annotations

from rldsl.compiler.methods import CLUSTERS, ENGINES, RUNNING_ENGINES
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import fail

DEFAULT_STEPS = 100
"""Training steps of a run that is not told how many."""


def check_world_size(plan: Plan, world_size: int) -> None:
    """RL0707, naming the sizes that work, unless `plan` can run on `world_size` ranks."""
    if plan.world_size is not None and plan.world_size != world_size:
        fail(
            "RL0707",
            f"the plan is for {plan.world_size} ranks, not {world_size}",
            expected=f"{plan.world_size} ranks, as its deployment says",
            found=f"{world_size} ranks",
            fix=f"run with `-n {plan.world_size}`, or compile with `--world-size {world_size}`",
        )
    if world_size < 1 or (plan.world_size is None and plan.divides % world_size):
        works = [n for n in range(1, plan.divides + 1) if plan.divides % n == 0]
        fail(
            "RL0707",
            f"the plan does not run on {world_size} ranks: each must get as many prompts of a minibatch",
            expected=f"one of {', '.join(map(str, works))} ranks",
            found=f"{world_size} ranks",
        )


def check_engines(plan: Plan) -> None:
    """RL0711 unless every phase of `plan` has an engine that runs here."""
    for spec in plan.phases:
        runs = [e for e in ENGINES[spec.phase] if e in RUNNING_ENGINES]
        if spec.engine not in runs:
            name = f"{spec.model}.{spec.phase}"
            fail(
                "RL0711",
                f"`{name}` wants the engine `{spec.engine}`, which this version plans for and does not run",
                expected=", ".join(runs),
                found=spec.engine,
                fix=f'compile with `--layout "{name} : {runs[0]}()"` to run it here',
            )


def check_hardware(plan: Plan, device: str) -> None:
    """RL0504 unless `plan` is for hardware like `device`, the name of a CUDA device or "cpu"."""
    if plan.cluster is None or plan.cluster == "cpu":
        return
    # A newer rldsl may know kinds that this one does not: then the name itself must fit.
    wanted = CLUSTERS.get(plan.cluster, plan.cluster)
    if device == "cpu" or (plan.cluster != "gpu" and wanted.lower() not in device.lower()):
        fail(
            "RL0504",
            f"the plan is for {plan.cluster}, and this rank has {device}",
            expected=wanted,
            found=device,
            fix="run it there, or compile it with a `deploy` block for this machine",
        )
