"""The run folder, written by rank 0: plan.json, metrics.jsonl, reward.png; `save` ops add checkpoints.

Imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import write_plan
from rldsl.diagnostics import fail

WINDOW = 10  # steps of the moving mean in the picture
OFFLOADED = "offload-{rank}"
"""The folder in it of what a rank has moved off its device, while it runs. One of each: the last file takes its folder
with it, and no other rank may be about to write there.
"""


def moved(plan: Plan, source_dir: Path, folder: Path) -> Plan:
    """`plan` as it reads in `folder`: it names its source, and so the user's files, relative to where it lies."""
    if not plan.source.path:
        return plan
    path = os.path.relpath(source_dir / Path(plan.source.path).name, folder)
    return msgspec.structs.replace(plan, source=msgspec.structs.replace(plan.source, path=Path(path).as_posix()))


class RunFolder:
    """Made when the first step is about to begin, so that a run that cannot start leaves nothing."""

    def __init__(self, path: Path, plan: Plan, source_dir: Path) -> None:
        self._path, self._rewards = path, list[tuple[int, float]]()
        path.mkdir(parents=True, exist_ok=True)
        write_plan(moved(plan, source_dir, path), path / "plan.json")
        (path / "reward.png").unlink(missing_ok=True)  # of an earlier run: this one may have no reward to draw
        self._lines = (path / "metrics.jsonl").open("w")

    def add(self, metrics: Mapping[str, float | None], reward: str | None) -> None:
        """One line, flushed, so that a run that is killed keeps its steps."""
        try:
            self._lines.write(json.dumps(metrics) + "\n")
            self._lines.flush()
        except OSError as error:
            fail("RL0101", f"cannot write `{self._lines.name}`: {error.strerror}", fix="is there room on the disk?")
        value = None if reward is None else metrics[reward]
        if value is not None:
            # Steps without a reward leave a gap.
            self._rewards.append((int(metrics["step"] or 0) + 1, value))

    def close(self) -> None:
        """End metrics.jsonl."""
        self._lines.close()

    def draw(self, title: str, reward: str | None) -> None:
        """reward.png: the mean reward of each step and its moving mean; nothing without matplotlib."""
        if reward is None or not self._rewards or importlib.util.find_spec("matplotlib") is None:
            return
        from matplotlib.figure import Figure  # half a second that only this needs

        steps, values = zip(*self._rewards, strict=True)
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(steps, values, color="0.75", linewidth=1, label=f"{reward}, mean of the step")
        axes.plot(steps, moving_mean(list(values)), color="tab:blue", linewidth=2, label=f"over {WINDOW} steps")
        axes.set(title=title, xlabel="step", ylabel=reward)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(self._path / "reward.png")


def moving_mean(values: list[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and the up to `window - 1` before it."""
    spans = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]
