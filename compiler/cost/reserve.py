"""What a device loses before the first tensor: driver, communicators, workspaces of libraries.

None of it was measured here, since no GPU was at hand; each constant says who found it. What the allocator cannot use
for being in pieces is not here either: `Hardware.usable` leaves it out of the budget.
"""

from __future__ import annotations

from rldsl.compiler.cost.memory_terms import Category, Origin, Term, nonzero, product

MIB = 1 << 20

CUDA_CONTEXT = 550 * MIB
"""A process's CUDA context with PyTorch's kernels; users of A100 and H100 report 400 to 550 MiB."""

NCCL_FIRST = 1060 * MIB
"""After the first collective of a process; NVIDIA/nccl issue 1685, eight H100 of one node."""

NCCL_NEXT = 688 * MIB
"""Each further communicator; NVIDIA/nccl issue 964, four A100 with NVLink: 544 of two ranks, 688 of more."""

CUBLAS_WORKSPACE = 32 * MIB
"""PyTorch's default on Hopper (8 buffers of 4 MiB), 8 MiB before; the documentation of CUBLAS_WORKSPACE_CONFIG."""


def reserved(*, cuda: bool, communicators: int) -> tuple[Term, ...]:
    """Of a rank that is in so many groups of more than one rank. Processors lose nothing that would be counted."""
    if not cuda:
        return ()
    further = max(0, communicators - 1)
    found = [
        ("CUDA context", CUDA_CONTEXT, 1),
        ("cuBLAS workspace", CUBLAS_WORKSPACE, 1),
        ("NCCL, first communicator", NCCL_FIRST, min(1, communicators)),
        ("NCCL, further communicators", NCCL_NEXT, further),
    ]
    return nonzero(
        product(Category.RESERVE, what, (count, ""), (size, "B"), origin=Origin.MEASURED) for what, size, count in found
    )
