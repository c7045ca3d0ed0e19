"""This rank's view of the process group: gloo for CPU tensors and objects, NCCL for CUDA tensors.

A run of one rank needs no torch.distributed: every collective is then the identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import DeviceMesh

from rldsl.backends.status import Status
from rldsl.diagnostics import fail

T = TypeVar("T")
# What torch calls it from 2.13 on, and called it before.
_all_gather: Callable[..., object] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Comm:
    """Collectives over one group of ranks, numbered from 0 inside it; `members` are their numbers in the world.

    Any collective raises `DiagnosticError` RL0702, naming op, node, rank, step, peers and seconds waited,
    when a peer does not take part within the timeout or its connection breaks. The `store` of a world of several is
    where its ranks have met.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        status: Status,
        group: dist.ProcessGroup | None,
        members: Sequence[int] | None = None,
        store: Store | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self.rank, self.world_size, self.device, self.status = rank, world_size, device, status
        self.store, self.timeout_s, self.ledgers = store, timeout_s, 0
        self.members = tuple(range(world_size)) if members is None else tuple(members)
        self._group = group
        self._mesh: DeviceMesh | None = None
        self._subgroups: dict[tuple[int, ...], Comm | None] = {self.members: self}
        self._beside: Comm | None = None

    @classmethod
    def alone(cls, device: torch.device | None = None, status: Status | None = None) -> Comm:
        """A world of one rank."""
        device = device or torch.device("cpu")
        return cls(rank=0, world_size=1, device=device, status=status or Status(), group=None)

    @classmethod
    def connect(cls, store: Store, status: Status, *, device: torch.device, timeout_s: float) -> Comm:
        """Join `status.world_size` ranks through `store`. Every rank must call it; one process, one world."""
        if status.world_size == 1:
            return cls.alone(device, status)
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group(
            # One group, two transports: the tensor's device picks, so objects and text go by gloo.
            backend="cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=PrefixStore("rldsl/world", store),
            rank=status.rank,
            world_size=status.world_size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if cuda else None,
        )
        world = dist.group.WORLD
        return cls(
            rank=status.rank,
            world_size=status.world_size,
            device=device,
            status=status,
            group=world,
            store=store,
            timeout_s=timeout_s,
        )

    def close(self) -> None:
        """Leave the world; a Comm of one rank has nothing to leave."""
        if self._group is not None and self._group is dist.group.WORLD:
            dist.destroy_process_group()

    def make_groups(self, groups: Iterable[Sequence[int]]) -> None:
        """Prepare `group_of` for these sets of rising ranks. Collective over the world: every rank, the same sets."""
        for members in sorted({tuple(g) for g in groups} - set(self._subgroups)):
            self._subgroups[members] = self._make_group(members)

    def _make_group(self, members: tuple[int, ...]) -> Comm | None:
        assert members and set(members) <= set(self.members), f"a group of {members} in a world of {self.world_size}"
        made = None
        if len(members) > 1:
            with self._guard(f"making the group of {len(members)} ranks from {members[0]}"):
                made = dist.new_group(list(members), timeout=timedelta(seconds=self.timeout_s))
        if self.rank not in members:
            return None
        return Comm(
            rank=members.index(self.rank),
            world_size=len(members),
            device=self.device,
            status=self.status,
            group=made,
            members=members,
            timeout_s=self.timeout_s,
        )

    def make_beside(self, groups: Iterable[Sequence[int]]) -> Comm:
        """This world for one more thread: of it nothing but `group_of` is there, for these sets of rising ranks.

        They have communicators of their own: what two threads do over one would have no order that all ranks share.
        And a status of their own, for errors to name the op of that thread. Collective over the world: every rank, the
        same sets.
        """
        if self._beside is None:
            self._beside = self._twin(Status(rank=self.status.rank, world_size=self.status.world_size))
            self._beside._subgroups = {}
        self._beside.status.steps = self.status.steps
        self._beside.make_groups(groups)
        return self._beside

    def _twin(self, status: Status) -> Comm:
        return Comm(
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
            status=status,
            group=None,
            members=self.members,
            timeout_s=self.timeout_s,
        )

    @property
    def concurrent(self) -> bool:
        """Whether two threads may be in collectives at once, each over communicators of its own.

        Not on GPUs: kernels of two communicators of NCCL may each hold what the other waits for, unless all ranks
        launch them in one order.
        """
        return self.device.type != "cuda"

    def by_itself(self) -> Comm:
        """This rank without the others."""
        return Comm(
            rank=0,
            world_size=1,
            device=self.device,
            status=self.status,
            group=None,
            members=self.members[self.rank : self.rank + 1],
        )

    def group_of(self, members: Iterable[int]) -> Comm | None:
        """These ranks, prepared by `make_groups`; None where this rank is not among them."""
        return self._subgroups[tuple(members)]

    def mesh(self) -> DeviceMesh | None:
        """A 1-D mesh `dp` over these ranks, for FSDP2; None when alone. Collective at its first call."""
        if self._group is None:
            return None
        if self._mesh is None:
            with self._guard("mesh"):
                self._mesh = DeviceMesh.from_group(self._group, self.device.type, mesh_dim_names=("dp",))
        return self._mesh

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; returns `tensor`."""
        if self._group is not None:
            with self._guard("all_reduce"):
                dist.all_reduce(tensor, dist.ReduceOp.SUM, group=self._group)
        return tensor

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """Maximum over ranks, in place; returns `tensor`."""
        if self._group is not None:
            with self._guard("all_reduce_max"):
                dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """The tensor of rank `source`, in place; returns `tensor`."""
        if self._group is not None:
            with self._guard("broadcast"):
                dist.broadcast(tensor, group=self._group, group_src=source)
        return tensor

    def barrier(self) -> None:
        """Wait for every rank."""
        self.all_reduce(torch.zeros(1))

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's `value`, in rank order. For small things: pickled, over gloo."""
        if self._group is None:
            return [value]
        gathered = [value] * self.world_size
        with self._guard("all_gather_object"):
            dist.all_gather_object(gathered, value, group=self._group)
        return gathered

    def all_gather_rows(self, mine: Tensor, rows: int) -> Tensor:
        """All `rows` rows of a tensor of which every rank but the last few has ceil(rows / ranks), as FSDP2 cuts it.

        `mine` [rows of this rank, ...] contiguous; returns [rows, ...] of the same dtype and device.
        """
        if self._group is None:
            return mine
        each = -(-rows // self.world_size)
        whole = mine.new_empty(each * self.world_size, *mine.shape[1:])
        if len(mine) < each:
            mine = torch.cat((mine, mine.new_zeros(each - len(mine), *mine.shape[1:])))
        with self._guard("all_gather"):
            _all_gather(whole, mine, group=self._group)
        # Nobody keeps what fills the last parts up.
        return whole if len(whole) == rows else whole[:rows].clone()

    def all_to_all(self, send: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int]) -> Tensor:
        """Give rank r the next `send_counts[r]` elements of the flat `send`; get `receive_counts[r]` from it.

        Returns the received elements in rank order, flat, of the same dtype and device.
        """
        if self._group is None:
            return send
        received = send.new_empty(sum(receive_counts))
        with self._guard("all_to_all"):
            dist.all_to_all_single(received, send, list(receive_counts), list(send_counts), group=self._group)
        return received

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn a transport's error into RL0702."""
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            lost(self.status, what, self.members, time.monotonic() - began, error)


def lost(status: Status, what: str, members: Sequence[int], waited: float, error: Exception) -> NoReturn:
    """Raise RL0702: the collective `what` over these ranks did not come to its end."""
    peers = ", ".join(str(r) for r in members if r != status.rank)
    fail(
        "RL0702",
        f"rank {status.rank} waited {waited:.1f} s in {what} for ranks {peers}, in {status.where()}",
        expected="every rank of the group to enter the collective within the timeout",
        found=str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__,
        fix="look for a rank that is stuck or much slower; a longer wait is `--timeout SECONDS`",
    )
