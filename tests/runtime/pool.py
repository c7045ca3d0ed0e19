"""Rank processes that are started once and then run one plan after another."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.multiprocessing as mp

from rldsl.backends.comm import Comm
from rldsl.backends.rendezvous import Address, serve
from rldsl.backends.status import Status
from rldsl.compiler.plan import Plan
from tests.runtime.differential import Outcome, execute, united

TIMEOUT_S = 60.0


class RankError(Exception):
    """A rank has failed; the text is its traceback."""


class Ranks:
    """`size` processes with one process group. After an error they are started anew."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        self._store, address = serve("127.0.0.1", TIMEOUT_S)
        context = mp.get_context("spawn")
        for rank in range(self.size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, str(address), theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(mine)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()
        self._processes, self._pipes = [], []

    def run(self, plan: Plan, folder: Path, run_dir: Path) -> Outcome:
        """The plan on all ranks. RankError with what the first rank that failed says."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((plan, folder, run_dir))
        said = self._answers()
        for text in said:
            if text is not None:
                self.close()
                raise RankError(text)
        files = [run_dir / f"{rank}.pt" for rank in range(self.size)]
        return united([torch.load(f, weights_only=False) for f in files])

    def _answers(self) -> Sequence[str | None]:
        """Of each rank None, or what went wrong; after the first error no other is waited for."""
        waiting = list(self._pipes)
        found: list[str | None] = []
        while waiting:
            for pipe in (p for p in wait(waiting) if isinstance(p, Connection)):
                waiting.remove(pipe)
                found.append(_answer(pipe))
                if found[-1] is not None:
                    return found
        return found


def _answer(pipe: Connection) -> str | None:
    try:
        said: str | None = pipe.recv()
    except EOFError:
        return "the process is gone"
    return said


def _serve(rank: int, size: int, address: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    store = Address.parse(address).connect(TIMEOUT_S)
    comm = Comm.connect(store, Status(rank=rank, world_size=size), device=torch.device("cpu"), timeout_s=TIMEOUT_S)
    while True:
        plan, folder, run_dir = pipe.recv()
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            torch.save(execute(plan, comm, folder, run_dir), run_dir / f"{rank}.pt")
            pipe.send(None)
        except BaseException:
            pipe.send(f"rank {rank}: {traceback.format_exc()}")


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where programs and runs lie while they are compared."""
    return tempfile.TemporaryDirectory(prefix="rldsl-random-")
