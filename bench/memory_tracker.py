"""Bytes alive and their peak, by the storages that a piece of code makes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary


class Alive(TorchDispatchMode):
    """Counts every storage from the op that makes it until nothing refers to it, fake tensors' as real ones'.

    Not those on the meta device, which have a size and no memory.

    `torch.distributed._tools.mem_tracker.MemTracker` does the same by module, for which it takes much longer and
    refuses frozen parameters and a second forward pass; a test compares the two. Memory inside a kernel is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._sizes = WeakIdKeyDictionary()
        self._resize: Any = UntypedStorage.resize_

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count what is there already."""
        for tensor in tensors:
            self._see(tensor)

    def _see(self, tensor: Tensor) -> None:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        # What wraps a tensor that is still on its way claims as much storage as that has.
        local = local.elem if isinstance(local, AsyncCollectiveTensor) else local
        if local.is_meta:
            return
        storage = local.untyped_storage()
        if storage not in self._sizes:
            size = [0]
            self._sizes[storage] = size
            weakref.finalize(storage, self._freed, size).atexit = False
        self._set(self._sizes[storage], storage.size())

    def _set(self, size: list[int], new: int) -> None:
        self.now += new - size[0]
        size[0] = new
        self.peak = max(self.peak, self.now)

    def _freed(self, size: list[int]) -> None:
        self.now -= size[0]

    def __enter__(self) -> Alive:
        def resize(storage: UntypedStorage, size: int) -> Any:
            # FSDP2 frees gathered parameters so; no op tells of it.
            made = self._resize(storage, size)
            if storage in self._sizes:
                self._set(self._sizes[storage], storage.size())
            return made

        UntypedStorage.resize_ = resize  # type: ignore[method-assign,assignment]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented
        # The fake form of waiting makes a tensor that the real one does not.
        waits = func is torch.ops._c10d_functional.wait_tensor.default and isinstance(args[0], FakeTensor)
        made = args[0] if waits else func(*args, **(kwargs or {}))
        for each in tree_iter(made):
            if isinstance(each, Tensor):
                self._see(each)
        return made
