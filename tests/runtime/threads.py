"""Ranks as threads of one process, of which one runs at a time: until it waits for the others in a collective.

So a world of eight ranks starts in no time, and nothing that ranks share in a process is used by two at once. For
engines that need no torch.distributed: collectives are those of `Comm`, over values that the threads hand each other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from rldsl.backends.comm import Comm
from rldsl.backends.engines.engine import Engine
from rldsl.backends.status import Status
from rldsl.compiler.plan import Plan
from tests.runtime.differential import Outcome, execute, united
from tests.runtime.pool import RankError

T = TypeVar("T")
TIMEOUT_S = 60.0


class LeftError(Exception):
    """Another rank has failed, so this one waits for nobody."""


class World:
    """What all ranks of a world share. Whoever runs holds `turn`; a wait on it lets another run."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Condition()
        self.store = HashStore()
        self.failed = False
        self._meetings: dict[tuple[int, ...], Meeting] = {}
        self._all = tuple(range(size))

    def meeting(self, members: tuple[int, ...]) -> Meeting:
        """Where these ranks meet."""
        return self._meetings.setdefault(members, Meeting(self, len(members)))

    def comm(self, rank: int) -> ThreadComm:
        """What rank `rank` talks through."""
        return ThreadComm(rank, self._all, self, Status(rank=rank, world_size=len(self._all)))

    def fail(self) -> None:
        """Let nobody wait any longer."""
        self.failed = True
        self.turn.notify_all()


class Meeting:
    """A group of ranks whose members hand each other a value, one collective after the other."""

    def __init__(self, world: World, size: int) -> None:
        self.world, self.size = world, size
        self._given: dict[int, tuple[str, Any]] = {}
        self._made: list[Any] = []
        self._round = 0

    def exchange(self, rank: int, what: str, value: T) -> list[T]:
        """Every member's value, in rank order. All must be in the same collective."""
        here, turn = self._round, self.world.turn
        self._given[rank] = what, value
        if len(self._given) == self.size:
            kinds = {kind for kind, _ in self._given.values()}
            assert len(kinds) == 1, f"ranks meet in different collectives: {sorted(kinds)}"
            self._made = [self._given[r][1] for r in range(self.size)]
            self._given, self._round = {}, here + 1
            turn.notify_all()
        while self._round == here and not self.world.failed:
            assert turn.wait(TIMEOUT_S), f"rank {rank} waited {TIMEOUT_S} s in {what}"
        if self._round == here:
            raise LeftError
        return self._made


class ThreadComm(Comm):
    """The collectives of one rank that is a thread."""

    def __init__(self, rank: int, members: tuple[int, ...], world: World, status: Status) -> None:
        size, cpu = len(members), torch.device("cpu")
        super().__init__(
            rank=rank, world_size=size, device=cpu, status=status, group=None, members=members, store=world.store
        )
        self._meeting, self._world = world.meeting(members), world

    def _make_group(self, members: tuple[int, ...]) -> Comm | None:
        if self.rank not in members:
            return None
        return ThreadComm(members.index(self.rank), members, self._world, self.status)

    @property
    def concurrent(self) -> bool:
        """A rank has one turn: what would run on a thread of its own runs where it begins."""
        return False

    def mesh(self) -> NoReturn:
        raise AssertionError("threads cannot run FSDP")

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._gathered("sum", tensor)).sum(0))

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._gathered("max", tensor)).amax(0))

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return tensor.copy_(self._gathered("broadcast", tensor)[source])

    def all_gather_object(self, value: T) -> list[T]:
        return list(self._meeting.exchange(self.rank, "gather", value))

    def all_to_all(self, send: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int]) -> Tensor:
        everyone = self._meeting.exchange(self.rank, "all-to-all", torch.split(send.clone(), list(send_counts)))
        mine = [parts[self.rank] for parts in everyone]
        assert [len(part) for part in mine] == list(receive_counts)
        return torch.cat(mine)

    def _gathered(self, what: str, tensor: Tensor) -> list[Tensor]:
        # A copy: its owner may write to the tensor before the last rank has read it.
        return self._meeting.exchange(self.rank, what, tensor.detach().clone())


class ThreadRanks:
    """A world of threads for each plan."""

    def __init__(self, size: int, engine: Engine) -> None:
        self.size, self.engine = size, engine

    def run(self, plan: Plan, folder: Path, run_dir: Path) -> Outcome:
        """The plan on all ranks. RankError with what the first rank that failed says."""
        world = World(self.size)
        outcomes: dict[int, Outcome] = {}
        errors: list[tuple[int, BaseException]] = []

        def work(rank: int) -> None:
            with world.turn:
                try:
                    outcomes[rank] = execute(plan, world.comm(rank), folder, run_dir, self.engine)
                except LeftError:
                    pass
                except BaseException as error:
                    errors.append((rank, error))
                    world.fail()

        run_dir.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for rank, error in errors:
            raise RankError(f"rank {rank}: {type(error).__name__}: {error}") from error
        return united([outcomes[rank] for rank in range(self.size)])
