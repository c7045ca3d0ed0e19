"""Two processes with one group, as the backends start them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from rldsl.backends.comm import Comm
from rldsl.backends.rendezvous import Address, serve
from rldsl.backends.status import Status

WORLD = 2
Work = Callable[[Comm, Path], dict[str, Any]]


def on_ranks(work: Work, folder: Path) -> list[dict[str, Any]]:
    """What `work`, a function of a module, returned on each rank."""
    _store, address = serve("127.0.0.1", 60)
    torch.multiprocessing.spawn(_run, (str(address), folder, work), nprocs=WORLD)
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(WORLD)]


def _run(rank: int, address: str, folder: Path, work: Work) -> None:
    torch.set_num_threads(1)
    store = Address.parse(address).connect(60)
    status = Status(rank=rank, world_size=WORLD)
    comm = Comm.connect(store, status, device=torch.device("cpu"), timeout_s=60)
    torch.save(work(comm, folder), folder / f"{rank}.pt")
    comm.close()
