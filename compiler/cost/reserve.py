"""What a device loses before the first tensor: driver, communicators, workspaces of libraries.

On GPUs none of it was measured here, since none was at hand; each constant says who found it. What the allocator cannot
use for being in pieces is not here either: `Hardware.usable` leaves it out of the budget. On processors it is what a
rank's process takes beside tensors once torch and transformers are there, measured on Linux with glibc 2.36.
"""

from __future__ import annotations

from collections.abc import Iterable

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

LIBRARIES = 80 * MIB
"""Of a processor: code that models are the first to touch (25 MiB), threads, what glibc keeps of what is freed.

Fitted: SmolLM2-135M by GRPO and by PPO on two ranks took up to 62 MiB between ops beside what follows; a toy 27."""

TOKENIZER = 320
"""Bytes a word; measured of SmolLM2's, which has 49,152 of them: 13.5 to 16.3 MiB, once a model."""

SHARDED_LAYER = 384 << 10
"""Of FSDP2, beside tensors: 19.2 MiB of 60 layers, 11.7 of 30, each of nine parameters with their gradients."""


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


def process(vocabularies: Iterable[int], sharded_layers: int) -> tuple[Term, ...]:
    """Of a rank that is a processor: the words of each of its models, and the layers of those on several ranks."""
    of = Category.RESERVE
    return nonzero(
        (
            product(of, "libraries and allocator", (LIBRARIES, "B"), origin=Origin.MEASURED),
            product(of, "tokenizers", (TOKENIZER, "B"), (sum(vocabularies), "words"), origin=Origin.MEASURED),
            product(of, "FSDP2's objects", (SHARDED_LAYER, "B"), (sharded_layers, "layers"), origin=Origin.MEASURED),
        )
    )
