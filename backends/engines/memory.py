"""How much memory this process takes, and the C library's allocator: what it keeps of what is freed."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache
from pathlib import Path

import torch

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_ABOVE = 32 << 20  # the most that glibc accepts
_MMAP_SOON = 128 << 10  # where glibc begins, before it raises it by itself
_TRIM_ABOVE = 2047 << 20  # the argument is an int


@cache
def keep_freed_memory() -> bool:
    """Hold up to 2 GiB of freed memory in this process; False where the C library is not glibc.

    By default glibc gives freed activations and gradients back to the system, and every step pays for fresh zeroed
    pages: a quarter of the time of a training step of a small model.
    """
    return _set(_M_TRIM_THRESHOLD, _TRIM_ABOVE) and _set(_M_MMAP_THRESHOLD, _MMAP_ABOVE)


def keep_little() -> bool:
    """From now on tensors have pages of their own, which go back when they are freed; False where it is not glibc.

    For runs within a budget. Before 2.38 glibc seldom gives an aligned block the place of an equal one that was freed:
    small blocks lie in the few bytes more that it looks for. Where layers are gathered and freed again and again, as by
    FSDP, what it holds grew to twice what was in use. Fresh pages cost up to a third of a training step's time.
    """
    keep_freed_memory()  # whoever asks for it later changes nothing
    return _set(_M_MMAP_THRESHOLD, _MMAP_SOON)


def _set(option: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(option, value))


def give_back() -> None:
    """Freed memory goes back to the system, where the C library is glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)


_STATUS, _PAGES, _FORGET = Path("/proc/self/status"), Path("/proc/self/statm"), Path("/proc/self/clear_refs")
_SAMPLE_S = 0.002


class Meter:
    """The most memory that this process takes between `begin` and `end`: on a GPU what tensors take of the device.

    On a processor it is what is resident above what was when the meter was made, before any model was loaded: at its
    peak as the kernel knows it, or where the kernel does not let us reset that, as a thread finds it that looks every
    2 ms. None where there is no /proc. Who measures has a budget, so the process then keeps little of what is freed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._known = self._cuda or _PAGES.exists()
        self._sampler: _Sampler | None = None
        if not self._cuda:
            keep_little()
        self._before = 0 if self._cuda or not self._known else _resident()

    def begin(self) -> None:
        """What was freed before is given back, so that it is not counted again."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._known:
            give_back()
            if not _peak_forgotten():
                self._sampler = _Sampler()

    def end(self) -> int | None:
        """Bytes."""
        if self._cuda:
            return torch.cuda.max_memory_allocated(self._device)
        if not self._known:
            return None
        most = _peak() if self._sampler is None else self._sampler.end()
        self._sampler = None
        return max(0, most - self._before)


def _resident() -> int:
    return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _peak_forgotten() -> bool:
    """Have the kernel begin its peak anew (proc(5), clear_refs), if it lets us."""
    try:
        _FORGET.write_text("5")
    except OSError:
        return False
    return True


class _Sampler:
    def __init__(self) -> None:
        self._most, self._over = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="rldsl-memory", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._most = max(self._most, _resident())

    def end(self) -> int:
        """The most that was found."""
        self._over.set()
        self._thread.join()
        return max(self._most, _resident())
