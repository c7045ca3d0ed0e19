"""Tensors leave the device and come back where they were: whoever holds them, or a view of them, need not know.

Their storages are emptied in place and filled again. Below a GPU lies pinned memory of the host, and below that, as
below a processor's memory, a file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, UntypedStorage

from rldsl.backends.background import Background, Begun
from rldsl.backends.engines.memory import give_back
from rldsl.backends.engines.optim import local
from rldsl.diagnostics import fail

CHUNK = 64 << 20
"""Bytes of the host's memory through which a GPU's pass on their way to a file and back."""


class Shelf(Protocol):
    """The copy of some storages on a tier below."""

    def store(self, storages: Sequence[UntypedStorage]) -> None:
        """Copy them there, in place of what was stored before."""

    def fetch(self, storages: Sequence[UntypedStorage]) -> None:
        """Fill them, which have their sizes again, with what was stored."""

    def begin(self, storages: Sequence[UntypedStorage], thread: Background) -> Begun[None]:
        """Begin to fill them, by `thread` where the processor copies; one after the other in the order of beginning.

        Nothing may touch them before its result.
        """

    def close(self) -> None:
        """Remove the copy."""


class DiskShelf:
    """One file, in a folder that no other process writes to. RL0101 when it cannot be written or read.

    `chunk`: storages that the processor cannot read pass through so many bytes of its memory, piece by piece. Their
    copies run on the stream of the thread that asks for them, and have ended when it goes on.
    """

    def __init__(self, path: Path, *, chunk: int | None = None) -> None:
        self._path, self._chunk = path, chunk

    def store(self, storages: Sequence[UntypedStorage]) -> None:
        """The bytes of one after the other; nobody waits until they are on the disk itself."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("wb") as file:
                for piece in _pieces(storages, self._chunk):
                    file.write(piece.taken())
        except OSError as error:
            fail("RL0101", f"cannot write `{self._path}`: {error.strerror}", fix="is there room on the disk?")

    def fetch(self, storages: Sequence[UntypedStorage]) -> None:
        """From the file."""
        try:
            with self._path.open("rb", buffering=0) as file:
                for piece in _pieces(storages, self._chunk):
                    _read(file.readinto, piece.place)
                    piece.put()
        except OSError as error:
            fail("RL0101", f"cannot read `{self._path}` again: {error.strerror or error}")

    def begin(self, storages: Sequence[UntypedStorage], thread: Background) -> Begun[None]:
        """On the thread, which leaves the interpreter to others while the system reads."""
        return thread.start(partial(self.fetch, storages))

    def close(self) -> None:
        """Remove the file, and its folder after the last one."""
        self._path.unlink(missing_ok=True)
        if self._path.parent.is_dir() and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a storage, and the `place` in the processor's memory where its bytes are read and written.

    That is the part itself, or a buffer that it shares with those before and after it: then `through` is the buffer's
    tensor and the part's, u8 both.
    """

    place: memoryview
    through: tuple[Tensor, Tensor] | None = None

    def taken(self) -> memoryview:
        """Its bytes."""
        if self.through is not None:
            buffer, part = self.through
            buffer.copy_(part)
        return self.place

    def put(self) -> None:
        """Its bytes are those in `place` now."""
        if self.through is not None:
            buffer, part = self.through
            part.copy_(buffer)


def _pieces(storages: Sequence[UntypedStorage], chunk: int | None) -> Iterator[_Piece]:
    """Storages one after the other: whole, or in pieces of `chunk` bytes that pass through one buffer."""
    if chunk is None or not storages:
        yield from (_Piece(_memory(storage)) for storage in storages)
        return
    buffer = _buffer(min(chunk, max(s.nbytes() for s in storages)), storages[0].device)
    place = _memory(buffer.untyped_storage())
    for storage in storages:
        whole = _bytes(storage)
        for part in (whole[at : at + chunk] for at in range(0, len(whole), chunk)):
            yield _Piece(place[: len(part)], (buffer[: len(part)], part))


def _buffer(size: int, device: torch.device) -> Tensor:
    """u8[size] of the processor's, pinned for a GPU, which else copies slower than its link is."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _read(readinto: Callable[[memoryview], int | None], place: memoryview) -> None:
    """A file gives at most 2 GiB at once."""
    while len(place):
        count = readinto(place)
        if not count:
            raise OSError("it is shorter than what was written")
        place = place[count:]


def _memory(storage: UntypedStorage) -> memoryview:
    """The bytes of a storage of the processor's. By numpy it could never be resized again."""
    found: ctypes.Array[ctypes.c_char] = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    return memoryview(found).cast("B")


SMALLEST_BLOCK = 1 << 20


def blocks_of(size: int) -> list[int]:
    """Powers of two that together hold `size` bytes, the greatest first, and less than a MiB in vain.

    torch's allocator of pinned memory rounds each block up to a power of two: one of 65 MiB would take 128.
    """
    blocks = -(-size // SMALLEST_BLOCK)
    return [SMALLEST_BLOCK << bit for bit in reversed(range(blocks.bit_length())) if blocks >> bit & 1]


def aligned(blocks: Sequence[Tensor], parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The bytes of `parts`, u8[...] each, one after the other over the blocks: by pieces of both that are as long."""
    left, at = iter(blocks), 0
    block = next(left, None)
    for part in parts:
        begin = 0
        while begin < len(part):
            assert block is not None, "there are blocks for all of them"
            count = min(len(part) - begin, len(block) - at)
            yield block[at : at + count], part[begin : begin + count]
            begin, at = begin + count, at + count
            if at == len(block):
                block, at = next(left, None), 0


class PinnedShelf:
    """Pinned memory of the host. Copies run on a stream of their own, in order with what the device does otherwise."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._host = device, list[Tensor]()
        make_stream: Any = torch.cuda.Stream
        self._stream: torch.cuda.Stream = make_stream(device)

    def store(self, storages: Sequence[UntypedStorage]) -> None:
        """The device's memory is free for others once the copy is made; the processor does not wait."""
        sizes = blocks_of(sum(s.nbytes() for s in storages))
        if [len(host) for host in self._host] != sizes:
            self._host = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in sizes]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for host, there in aligned(self._host, [_bytes(s) for s in storages]):
                host.copy_(there, non_blocking=True)
                there.record_stream(self._stream)

    def fetch(self, storages: Sequence[UntypedStorage]) -> None:
        """What the device does next comes after the copy."""
        self._filling(storages).before(torch.cuda.current_stream(self._device))

    def begin(self, storages: Sequence[UntypedStorage], thread: Background) -> Begun[None]:
        """By the device itself, behind what it was told to do so far; what it is told next runs beside the copy."""
        return self._filling(storages)

    def _filling(self, storages: Sequence[UntypedStorage]) -> _Copy:
        # Their memory may be what the device has just been done with. It is not given to others before the copy has
        # ended, as whoever frees it has waited for that.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        begun = self._mark()
        with torch.cuda.stream(self._stream):
            for host, there in aligned(self._host, [_bytes(s) for s in storages]):
                there.copy_(host, non_blocking=True)
        return _Copy(begun, self._mark(), self._device)

    def _mark(self) -> torch.cuda.Event:
        make_event: Any = torch.cuda.Event
        event: torch.cuda.Event = make_event(enable_timing=True)
        event.record(self._stream)
        return event

    def close(self) -> None:
        """Free the host's memory, once no copy needs it."""
        self._stream.synchronize()
        self._host = []


@dataclass(frozen=True)
class _Copy:
    """A copy to the device between two events."""

    begun: torch.cuda.Event
    ended: torch.cuda.Event
    device: torch.device

    @property
    def seconds(self) -> float:
        """By the device's clock."""
        return float(self.begun.elapsed_time(self.ended)) / 1000

    def before(self, stream: torch.cuda.Stream) -> None:
        """What the stream is given from now on comes after the copy; the processor does not wait."""
        stream.wait_event(self.ended)

    def result(self) -> None:
        """The processor waits as well: an op's seconds are counted until the device is done with it anyway."""
        self.before(torch.cuda.current_stream(self.device))
        self.ended.synchronize()


def _bytes(storage: UntypedStorage) -> Tensor:
    """u8[bytes] over a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class Contents(NamedTuple):
    """Tensors of a state, and those whose values nobody needs between ops: room alone."""

    values: Iterable[Tensor] = ()
    room: Iterable[Tensor] = ()


class Movable:
    """A state on this rank, on the device or away. `contents` says which tensors it has now."""

    def __init__(self, contents: Callable[[], Contents], shelf: Shelf) -> None:
        self._contents, self._shelf = contents, shelf
        self._values: list[tuple[UntypedStorage, int]] = []
        self._room: list[tuple[UntypedStorage, int]] = []
        self.away = self.stored = False

    def offload(self, *, store: bool) -> None:
        """Free its memory, if `store` after it has been written to its shelf."""
        assert not self.away, "what is away cannot leave: the verifier refuses such plans"
        values, room = self._contents()
        self._values, self._room = _storages(values), _storages(room)
        if store:
            self._shelf.store([s for s, _ in self._values])
            self.stored = True
        for storage, _ in (*self._values, *self._room):
            storage.resize_(0)
        give_back()
        self.away = True

    def onload(self) -> None:
        """Bring it back as it was."""
        self._shelf.fetch(self._emptied())

    def begin(self, thread: Background) -> Begun[None]:
        """Begin to bring it back: it takes its memory now, and may be used once that has ended."""
        return self._shelf.begin(self._emptied(), thread)

    def _emptied(self) -> list[UntypedStorage]:
        """Its storages, with room for what was stored."""
        assert self.stored, "what was dropped must be made anew: the verifier refuses such plans"
        self.make_room()
        return [s for s, _ in self._values]

    def make_room(self) -> None:
        """Memory for it, with any values: it will be written over."""
        assert self.away, "what is there cannot come back: the verifier refuses such plans"
        for storage, size in (*self._values, *self._room):
            storage.resize_(size)
        self.away = False

    def close(self) -> None:
        """Remove its copy below."""
        self._shelf.close()


def _storages(tensors: Iterable[Tensor]) -> list[tuple[UntypedStorage, int]]:
    """Each storage once, with its bytes."""
    found: dict[int, UntypedStorage] = {}
    for tensor in tensors:
        storage = _owned(tensor)
        if storage.nbytes():
            found.setdefault(storage.data_ptr(), storage)
    return [(storage, storage.nbytes()) for storage in found.values()]


def _owned(tensor: Tensor) -> UntypedStorage:
    """The storage of this rank's part of a tensor, which before may have been that of a file."""
    mine = local(tensor.detach()).untyped_storage()
    if mine.resizable():
        return mine
    tensor.data = tensor.data.clone()
    return local(tensor.detach()).untyped_storage()
