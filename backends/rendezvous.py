"""Where ranks meet: a TCPStore, held by whoever started them. It carries heartbeats and numbers, never rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

# torch.distributed re-exports these without saying so to type checkers.
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

ADDRESS_ENV = "RLDSL_STORE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """How a rank reaches the store. `prefix` keeps restarts of one launcher apart."""

    host: str
    port: int
    prefix: str = ""
    serve: bool = False

    def connect(self, timeout_s: float) -> Store:
        """A new connection; the first call of a `serve` address starts the server in this process."""
        store: Store = TCPStore(
            self.host,
            self.port,
            is_master=self.serve,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
        )
        return PrefixStore(self.prefix, store) if self.prefix else store

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `host:port`."""
        host, _, port = text.rpartition(":")
        return cls(host=host, port=int(port))


def serve(host: str, timeout_s: float) -> tuple[TCPStore, Address]:
    """Start a store in this process at a free port."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    return store, Address(host=host, port=store.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This rank among the others, and on its host."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def place_from_env() -> Place:
    """From the variables that torchrun, and most launchers, set."""
    env = os.environ
    rank, world = int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1"))
    return Place(
        rank=rank,
        world_size=world,
        local_rank=int(env.get("LOCAL_RANK", str(rank))),
        local_world_size=int(env.get("LOCAL_WORLD_SIZE", str(world))),
    )


def address_from_env(rank: int) -> Address:
    """Our launcher's store; else the one at MASTER_ADDR, which rank 0 serves unless torchrun's agent does."""
    env = os.environ
    if ADDRESS_ENV in env:
        return Address.parse(env[ADDRESS_ENV])
    agent = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    run = f"{env.get('TORCHELASTIC_RUN_ID', 'none')}/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return Address(
        host=env.get("MASTER_ADDR", "127.0.0.1"),
        port=int(env.get("MASTER_PORT", "29500")),
        prefix=f"rldsl/{run}",
        serve=rank == 0 and not agent,
    )
