"""The C library's allocator, told to keep what a step frees: the next step asks for the same again."""

from __future__ import annotations

import ctypes
from functools import cache

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_ABOVE = 32 << 20  # the most that glibc accepts
_TRIM_ABOVE = 2047 << 20  # the argument is an int


@cache
def keep_freed_memory() -> bool:
    """Hold up to 2 GiB of freed memory in this process; False where the C library is not glibc.

    By default glibc gives freed activations and gradients back to the system, and every step pays for fresh zeroed
    pages: a quarter of the time of a training step of a small model.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_ABOVE) and mallopt(_M_MMAP_THRESHOLD, _MMAP_ABOVE))


def give_back() -> None:
    """Freed memory goes back to the system, where the C library is glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)
