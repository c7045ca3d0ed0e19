"""From command-line arguments to a compiled plan; imports the whole compiler."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rldsl.cli.output import show_diagnostics
from rldsl.compiler.ir import Module
from rldsl.compiler.pipeline import PASS_NAMES, Compiled, Options, compile_file
from rldsl.diagnostics import did_you_mean, fail


def options_of(
    args: argparse.Namespace, observe: Callable[[str, Module, float], None] | None = None, plan_dir: Path | None = None
) -> Options:
    """The compiler's options."""
    return Options(
        settings=tuple(args.settings),
        deploy=args.deploy,
        cluster=args.cluster,
        layouts=tuple(args.layouts),
        world_size=args.world_size,
        disable=frozenset(args.disable_pass),
        memory=args.memory,
        plan_dir=plan_dir,
        observe=observe,
    )


def known_pass(name: str, option: str) -> None:
    """Fail with RL0207 unless there is a pass called `name`, as `option` has it."""
    if name not in PASS_NAMES:
        fail(
            "RL0207",
            f"`{option} {name}`: there is no pass `{name}`",
            expected=f"one of {', '.join(PASS_NAMES)}",
            fix=did_you_mean(name, PASS_NAMES),
        )


def compile_source(
    path: Path,
    args: argparse.Namespace,
    observe: Callable[[str, Module, float], None] | None = None,
    plan_dir: Path | None = None,
) -> Compiled:
    """Compile, and print the warnings on stderr. `plan_dir` is where the plan will lie."""
    compiled = compile_file(path, options_of(args, observe, plan_dir))
    show_diagnostics(compiled.warnings, as_json=args.json, no_color=args.no_color)
    return compiled
