"""The options of every verb that compiles."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_compile_options(parser: argparse.ArgumentParser, *, budget: bool = True) -> None:
    """--set, --deploy, --cluster, --layout, --world-size, --memory if `budget`, --disable-pass."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="give a parameter of the algorithm another value; may be repeated",
    )
    parser.add_argument("--deploy", type=Path, metavar="FILE", help="take the deployment from this .rl file")
    parser.add_argument("--cluster", metavar="'N x KIND'", help="compile for this cluster, such as '4 x cpu'")
    parser.add_argument(
        "--layout",
        action="append",
        default=[],
        dest="layouts",
        metavar="LINE",
        help="give a phase of a model another layout, such as 'actor.generate : hf(dp = 2)'; may be repeated",
    )
    parser.add_argument("--world-size", type=positive, metavar="N", help="compile for exactly N ranks")
    if budget:
        parser.add_argument(
            "--memory", type=memory, metavar="SIZE", help="plan for so much memory a rank, such as 6GiB or 600MiB"
        )
    parser.add_argument(
        "--disable-pass",
        action="append",
        default=[],
        metavar="PASS",
        help="leave out an optimisation; may be repeated",
    )


def positive(text: str) -> int:
    """An integer above 0, for argparse."""
    number = natural(text)
    if number == 0:
        raise ValueError
    return number


def natural(text: str) -> int:
    """An integer, 0 or above, for argparse."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def memory(text: str) -> int:
    """Bytes of `6GiB`, `600MiB`, `6GB` or `600MB`, for argparse."""
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "GB": 10**9, "MB": 10**6}
    unit = next((u for u in units if text.endswith(u)), None)
    try:
        size = int(float(text.removesuffix(unit)) * units[unit]) if unit else 0
    except (ValueError, OverflowError):  # no number, or none that is finite
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"`{text}` is no size such as 6GiB or 600MiB")
    return size


def is_plan(path: Path) -> bool:
    """Whether `path` names a compiled plan rather than an algorithm."""
    return path.suffix == ".json"


def given(args: argparse.Namespace) -> list[str]:
    """The options of compilation that were given: meaningless where a plan is read."""
    names = {
        "settings": "--set",
        "deploy": "--deploy",
        "cluster": "--cluster",
        "layouts": "--layout",
        "world_size": "--world-size",
        "memory": "--memory",
        "disable_pass": "--disable-pass",
    }
    return [option for name, option in names.items() if vars(args)[name]]
