"""Ranks as processes over torch.distributed: by our own launcher, or under somebody else's.

torchrun --nproc-per-node 2 -m rldsl.backends.torchrun plan.json [--steps S] [--run-dir D]
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if __name__ == "__main__":
    # While the rest and torch are imported, Ctrl-C ends the rank without a word; the watch takes the signal over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from rldsl.backends.engines import require
from rldsl.backends.environment import prepare_torch
from rldsl.backends.failure import Failure, plain
from rldsl.backends.fits import DEFAULT_STEPS, check_world_size
from rldsl.backends.job import Job, omp_threads
from rldsl.backends.observer import Observer, Receiver, Silent
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan, source_dir
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TIMEOUT_S = 600.0
JOB_ENV = "RLDSL_JOB"


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
    """Run `plan` on `world_size` processes of this host, started through torch.distributed.elastic.

    Raises the `DiagnosticError` that ended the run, `WorkerBugError` for a bug, KeyboardInterrupt on Ctrl-C and, with
    that signal as its argument, on SIGTERM. No process is left behind.
    """
    require("torch", "transformers", "torchdata")
    from rldsl.backends.rendezvous import ADDRESS_ENV, serve  # torch is known to be there only now

    check_world_size(plan, world_size)
    store, address = serve("127.0.0.1", timeout_s)
    job = Job(
        plan=plan,
        steps=steps,
        run_dir=run_dir.absolute(),
        source_dir=source_dir.absolute(),
        timeout_s=timeout_s,
        relay=True,
    )
    receiver = Receiver(store, plan, steps, observer or Silent())
    try:
        with tempfile.TemporaryDirectory(prefix="rldsl-") as scratch, omp_threads(world_size):
            path = Path(scratch) / "job.json"
            path.write_bytes(job.encode())
            with _environment({ADDRESS_ENV: str(address), JOB_ENV: str(path)}):
                _launch(world_size, Path(scratch), store)
    finally:
        receiver.close()


@contextmanager
def _environment(extra: dict[str, str]) -> Iterator[None]:
    """Variables for the processes started inside: elastic hands on this process's own."""
    os.environ.update(extra)
    try:
        yield
    finally:
        for name in extra:
            del os.environ[name]


def _launch(world_size: int, scratch: Path, store: Store) -> None:
    """Start the ranks and wait; elastic's failure tables give way to one message of a rank that knows."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=scratch.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
    )
    with _quiet_elastic():
        try:
            elastic_launch(config, sys.executable)("-m", "rldsl.backends.torchrun")
        except ChildFailedError as error:
            first = min(error.failures.items(), key=lambda item: item[1].timestamp)
            _throw(store, first[0], first[1].exitcode)
        except SignalException as error:
            if error.sigval in (signal.SIGINT, signal.SIGTERM):
                raise KeyboardInterrupt(error.sigval) from None
            raise SystemExit(128 + error.sigval) from None


@contextmanager
def _quiet_elastic() -> Iterator[None]:
    """Elastic logs each failure at length, and replaces signal handlers without putting them back."""
    # Each of its modules' loggers has a level of its own.
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _throw(store: Store, rank: int, code: int) -> NoReturn:
    """What the ranks said; when all died without a word, what we know of the first."""
    from rldsl.backends.watch import peer_died

    failure = Failure.posted(store)
    if failure is not None:
        failure.throw()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise DiagnosticError([peer_died(store, rank, how)])


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldsl.backends.torchrun", description="Run one rank of a plan.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--run-dir", type=Path, help="default: runs/ALGORITHM")
    parser.add_argument(
        "--source-dir", type=Path, help="where data and function files are; default: the plan's source's"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS")
    return parser.parse_args(arguments)


def _job_of(arguments: list[str]) -> Job:
    """From our launcher's file; else from the command line of somebody else's launcher."""
    if JOB_ENV in os.environ:
        return Job.decode(Path(os.environ[JOB_ENV]).read_bytes())
    args = _parse(arguments)
    plan = read_plan(args.plan)
    problems = verify_plan(plan)
    if problems:
        raise DiagnosticError(problems)
    return Job(
        plan=plan,
        steps=args.steps,
        run_dir=args.run_dir or Path("runs") / plan.algorithm,
        source_dir=args.source_dir or source_dir(plan, args.plan),
        timeout_s=args.timeout,
        relay=False,
    )


def main(arguments: list[str]) -> int:
    """Be one rank; returns its exit code."""
    prepare_torch()
    try:
        require("torch", "transformers", "torchdata")
        from rldsl.backends.rendezvous import address_from_env, place_from_env
        from rldsl.backends.worker import run_rank

        job, place = _job_of(arguments), place_from_env()
        check_world_size(job.plan, place.world_size)
    except DiagnosticError as error:
        # Every rank reads the same files and finds the same: rank 0 says it.
        if os.environ.get("RANK", "0") == "0":
            print("\n".join(plain(d) for d in error.diagnostics), file=sys.stderr)
        return 1
    run_rank(job, place, address_from_env(place.rank), owns_signals=True)
    return 0


if __name__ == "__main__":
    from rldsl.backends.watch import leave

    leave(main(sys.argv[1:]))
