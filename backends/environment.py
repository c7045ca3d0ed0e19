"""What torch reads of the environment when it is first imported. Imports no torch."""

from __future__ import annotations

import os

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def prepare_torch() -> None:
    """Set what the user has not.

    Torch's own words on broken connections, stack traces of C++, would bury ours. Segments that expand leave a GPU's
    allocator fewer holes between states that leave and come back, and micro-batches of many lengths: budgets leave
    `Hardware.usable` for them, which is less than what was published of segments of fixed sizes (docs/memory.md).
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not any(name in os.environ for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"
