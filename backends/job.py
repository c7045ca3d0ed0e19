"""What a launcher tells its ranks, and their share of the cores. Imports no torch: launchers start fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rldsl.compiler.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is told. `relay`: the process that started us tells the user and shows progress."""

    plan: Plan
    steps: int
    run_dir: Path
    source_dir: Path
    timeout_s: float
    relay: bool

    def encode(self) -> bytes:
        """For the way to a rank."""
        return msgspec.json.encode({**vars(self), "run_dir": str(self.run_dir), "source_dir": str(self.source_dir)})

    @classmethod
    def decode(cls, data: bytes) -> Job:
        """The reverse."""
        return msgspec.json.decode(data, type=cls, dec_hook=lambda kind, text: kind(text))


def cores_per_rank(local_world_size: int) -> int:
    """Threads a rank should compute with: an equal share of the cores this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size)


@contextmanager
def omp_threads(local_world_size: int) -> Iterator[None]:
    """OMP_NUM_THREADS for the ranks started inside, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(cores_per_rank(local_world_size))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
