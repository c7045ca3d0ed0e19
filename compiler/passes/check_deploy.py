"""Clusters, phases, engines and axes that a deployment names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rldsl.compiler.ir import Deploy, Module, PhaseLayout
from rldsl.compiler.methods import CLUSTERS, ENGINE_AXES, ENGINES, FIGURES, OF_GPUS
from rldsl.compiler.passes.base import Context
from rldsl.compiler.plan import Phase
from rldsl.diagnostics import Diagnostics, did_you_mean


@dataclass(frozen=True, kw_only=True)
class CheckDeploy:
    """Check what can be said of a deployment without counting anything.

    Before: `actor.generate : vlm(dp = 2)`.   After: RL0507 no engine `vlm`, or the same module.
    """

    name: ClassVar[str] = "check_deploy"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is; RL0506 to RL0508, RL0207 for an unknown figure of the hardware."""
        deploy = module.graph.deploy
        if deploy is not None:
            _check_cluster(deploy, context.found)
            for layout in deploy.layouts:
                _check_layout(layout, context.found)
        return module


def _check_layout(layout: PhaseLayout, found: Diagnostics) -> None:
    phases = {p.value for p in Phase}
    if layout.phase not in phases:
        hint = did_you_mean(layout.phase, phases)
        found.error(
            "RL0506",
            f"a model has no phase `{layout.phase}`",
            span=layout.span,
            expected=", ".join(sorted(phases)),
            found=layout.phase,
            fix=hint,
        )
        return
    engines = ENGINES[Phase(layout.phase)]
    if layout.engine not in engines:
        found.error(
            "RL0507",
            f"no engine `{layout.engine}` for `{layout.phase}`",
            span=layout.span,
            expected=", ".join(engines),
            found=layout.engine,
            fix=did_you_mean(layout.engine, engines) or f"use `{engines[0]}`",
        )
        return
    for axis in layout.axes:
        if axis.name not in ENGINE_AXES[layout.engine]:
            found.error(
                "RL0506",
                f"`{layout.engine}` has no parallel axis `{axis.name}`",
                span=axis.span,
                expected=", ".join(ENGINE_AXES[layout.engine]),
                found=axis.name,
            )


def _check_cluster(deploy: Deploy, found: Diagnostics) -> None:
    if deploy.count is not None and deploy.count < 1:
        found.error("RL0506", "a cluster has at least one device", span=deploy.span, found=f"{deploy.count}")
    if deploy.cluster is not None and deploy.cluster not in CLUSTERS:
        found.error(
            "RL0508",
            f"unknown kind of cluster `{deploy.cluster}`",
            span=deploy.span,
            expected=", ".join(sorted(CLUSTERS)),
            found=deploy.cluster,
            fix=did_you_mean(deploy.cluster, CLUSTERS),
        )
    known = [s.name for s in FIGURES if deploy.cluster != "cpu" or s.name not in OF_GPUS]
    for figure in deploy.figures:
        if figure.name not in known:
            found.error(
                "RL0207",
                f"hardware has no figure `{figure.name}`",
                span=figure.span,
                expected=", ".join(known),
                found=figure.name,
                fix="of a processor's disk say `host_link` and `host_memory`"
                if figure.name in OF_GPUS
                else did_you_mean(figure.name, known),
            )
