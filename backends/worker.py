"""One rank, from joining the others to its end, and what it says when it ends badly."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from typing import NoReturn

import torch
from torch._C._distributed_c10d import Store

from rldsl.backends.comm import Comm
from rldsl.backends.executor import Executor
from rldsl.backends.failure import BUG, INTERRUPTED, USER_ERROR, Failure
from rldsl.backends.folder import OFFLOADED
from rldsl.backends.job import Job, cores_per_rank
from rldsl.backends.observer import Sender
from rldsl.backends.rendezvous import Address, Place
from rldsl.backends.status import Status
from rldsl.backends.watch import BEAT_S, STALE_BEATS, Watch
from rldsl.diagnostics import Diagnostic, DiagnosticError, fail

# What gloo, NCCL and the store call a peer that is gone or late.
COMM_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "socket")
LATE_WORDS = ("timed out", "timeout")


def device_of(place: Place) -> torch.device:
    """This rank's GPU, or the CPU where there is none. RL0708 when ranks of a host would share a GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() < place.local_world_size:
        fail(
            "RL0708",
            f"{place.local_world_size} ranks on a host with {torch.cuda.device_count()} GPUs",
            expected="a GPU for each rank",
            fix="start fewer ranks, or set CUDA_VISIBLE_DEVICES= (to nothing) to run on the CPU",
        )
    return torch.device("cuda", place.local_rank)


def run_rank(job: Job, place: Place, address: Address, *, owns_signals: bool) -> None:
    """Run one rank to its end. Returns only when all is well: else the process ends here, with the failure's code."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores_per_rank(place.local_world_size))
    status = Status(rank=place.rank, world_size=place.world_size)
    store = address.connect(job.timeout_s)
    mine = dataclasses.replace(address, serve=False).connect(job.timeout_s)
    below = job.run_dir / OFFLOADED.format(rank=place.rank)
    watch = Watch(status, place, mine, below, relay=job.relay, owns_signals=owns_signals, serves=address.serve)
    watch.start()
    try:
        _run(job, place, store, status)
    except BaseException as error:
        _conclude(error, status, watch)
    watch.finish()
    _outlive_peers(store, place, address)


def _run(job: Job, place: Place, store: Store, status: Status) -> None:
    status.enter(step=-1, op="connect", node=None)
    comm = Comm.connect(store, status, device=device_of(place), timeout_s=job.timeout_s)
    observer = Sender(store) if job.relay else None
    executor = Executor(
        job.plan, comm, steps=job.steps, source_dir=job.source_dir, run_dir=job.run_dir, observer=observer
    )
    executor.run()
    status.enter(step=job.steps - 1, op="end", node=None)
    comm.barrier()
    comm.close()


def _outlive_peers(store: Store, place: Place, address: Address) -> None:
    """The rank that holds the store goes last."""
    store.set(f"rldsl/left/{place.rank}", "")
    if address.serve:
        with contextlib.suppress(RuntimeError):
            store.wait([f"rldsl/left/{rank}" for rank in range(place.world_size)])


def _conclude(error: BaseException, status: Status, watch: Watch) -> NoReturn:
    """Tell all ranks, and the user once, why this rank ends; a broken connection is given time to show why."""
    patience = _patience(error)
    if patience:
        watch.await_verdict(patience)
    failure = _failure(error, status)
    watch.report(failure)
    watch.leave(failure.code)


def _patience(error: BaseException) -> float:
    """Seconds to wait for the watch to find a dead peer behind `error`; 0 when it is not about peers."""
    if not is_comm_error(error):
        return 0
    late = any(word in _text(error) for word in LATE_WORDS)
    return 2 * BEAT_S if late else (STALE_BEATS + 4) * BEAT_S


def is_comm_error(error: BaseException) -> bool:
    """Whether a collective failed: one of `Comm`, or one that FSDP made."""
    if isinstance(error, DiagnosticError):
        return any(d.code == "RL0702" for d in error.diagnostics)
    return isinstance(error, RuntimeError) and any(word in _text(error) for word in COMM_WORDS)


def _text(error: BaseException) -> str:
    if isinstance(error, DiagnosticError):
        return " ".join(d.found or "" for d in error.diagnostics).lower()
    return str(error).lower()


def _failure(error: BaseException, status: Status) -> Failure:
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank=status.rank, code=INTERRUPTED)
    if isinstance(error, DiagnosticError):
        return Failure(rank=status.rank, code=USER_ERROR, diagnostics=error.diagnostics)
    if is_comm_error(error):
        told = Diagnostic(
            code="RL0702",
            message=f"rank {status.rank} lost its peers after {status.elapsed:.1f} s in {status.where()}",
            expected="every rank of the group to take part within the timeout",
            found=str(error).strip().splitlines()[0][:200],
        )
        return Failure(rank=status.rank, code=USER_ERROR, diagnostics=(told,))
    trace = "".join(traceback.format_exception(error))
    return Failure(rank=status.rank, code=BUG, traceback=f"{trace}in {status.where()}, rank {status.rank}\n")
