"""Several processes with one group, begun and ended as the backends do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from rldsl.backends.comm import Comm
from rldsl.backends.rendezvous import Address, serve
from rldsl.backends.status import Status
from rldsl.backends.watch import leave

Work = Callable[[Comm, Path], Any]


def on_ranks(work: Work, folder: Path, world_size: int = 2) -> list[Any]:
    """What `work`, a function of a module, returned on each rank."""
    _store, address = serve("127.0.0.1", 60)
    torch.multiprocessing.spawn(_run, (str(address), folder, work, world_size), nprocs=world_size)
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(world_size)]


def _run(rank: int, address: str, folder: Path, work: Work, world_size: int) -> None:
    torch.set_num_threads(1)
    store = Address.parse(address).connect(60)
    status = Status(rank=rank, world_size=world_size)
    comm = Comm.connect(store, status, device=torch.device("cpu"), timeout_s=60)
    torch.save(work(comm, folder), folder / f"{rank}.pt")
    comm.barrier()
    comm.close()
    # As real ranks end: a thread of gloo's that is still on its way out while Python tears itself down aborts.
    leave(0)
