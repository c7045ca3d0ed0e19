"""Whether a plan runs on so many ranks."""

from __future__ import annotations

from rldsl.compiler.plan import Plan
from rldsl.diagnostics import fail


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
    if world_size < 1 or plan.divides % world_size:
        works = [n for n in range(1, plan.divides + 1) if plan.divides % n == 0]
        fail(
            "RL0707",
            f"the plan does not run on {world_size} ranks: each must get as many prompts of a minibatch",
            expected=f"one of {', '.join(map(str, works))} ranks",
            found=f"{world_size} ranks",
        )
