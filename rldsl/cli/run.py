"""`rldsl run FILE|plan.json`: train."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rldsl.backends.fits import DEFAULT_STEPS, check_world_size
from rldsl.cli.ending import tidy
from rldsl.cli.entry import UsageError
from rldsl.cli.options import add_compile_options, positive
from rldsl.cli.output import console
from rldsl.cli.sources import load
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import fail
from rldsl.render.memory import unplanned
from rldsl.render.progress import Progress

METRICS_FILE = "metrics.jsonl"
BACKENDS = ("local", "torchrun", "ray")


class Backend(Protocol):
    """What the module of a backend offers."""

    def run(
        self,
        plan: Plan,
        *,
        steps: int,
        world_size: int,
        run_dir: Path,
        observer: Progress,
        source_dir: Path,
        timeout_s: float,
    ) -> None:
        """Run `steps` steps on `world_size` ranks; returns when all have ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run, where, how long."""
    parser.add_argument("file", type=Path, help="an algorithm, .rl or .py, or a plan.json")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="default: %(default)s")
    parser.add_argument("-n", "--ranks", type=positive, metavar="N", help="ranks; default: the plan's, else 1")
    parser.add_argument("--steps", type=positive, default=DEFAULT_STEPS, metavar="S", help="default: %(default)s")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<algorithm>-<time>")
    parser.add_argument("--overwrite", action="store_true", help="let --run-dir hold an earlier run, and replace it")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=600,
        metavar="S",
        help="seconds a rank waits for others; default: %(default)s",
    )
    add_compile_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Compile if need be, start the ranks, show how it goes."""
    plan, source_dir = load(args.file, args)
    if args.memory is not None and (why := unplanned(plan)):
        raise UsageError(f"rldsl run: memory is not planned: {why}")
    world_size = args.ranks or plan.world_size or 1
    check_world_size(plan, world_size)
    backend = load_backend(args.backend)
    run_dir = args.run_dir or new_run_dir(plan.algorithm)
    check_run_dir(run_dir, overwrite=args.overwrite)
    with tidy(run_dir), Progress(console(no_color=args.no_color)) as progress:
        backend.run(
            plan,
            steps=args.steps,
            world_size=world_size,
            run_dir=run_dir,
            observer=progress,
            source_dir=source_dir,
            timeout_s=args.timeout,
        )
    progress.conclude(run_dir)
    return 0


def check_run_dir(path: Path, *, overwrite: bool) -> None:
    """RL0101 when a run could not be written there, RL0710 when it would replace an earlier one unasked."""
    if (path / METRICS_FILE).exists() and not overwrite:
        fail("RL0710", f"`{path}` holds a run already", fix="choose another --run-dir, or add --overwrite")
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=path)
    except OSError as error:
        fail("RL0101", f"cannot write to `{path}`: {error.strerror}", fix="choose another --run-dir")
    os.close(handle)
    Path(probe).unlink()
    for made in missing:  # a run that does not start leaves nothing
        made.rmdir()


def load_backend(name: str) -> Backend:
    """The backend's module; what it needs it imports, and asks for (RL0601), when it runs."""
    return cast(Backend, import_module(f"rldsl.backends.{name}"))


def new_run_dir(algorithm: str) -> Path:
    """`runs/<algorithm>-<time>`, a name not yet taken; not created here."""
    name = f"{algorithm}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = Path("runs") / name, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{name}-{count}"
    return path
