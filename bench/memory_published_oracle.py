"""What one rank needs for a step of torchtitan's: its policies in `bench/memory_oracle.py`, on tensors without data.

The step's allocations are then made in a pool as torch's allocator has one for each stream, to see how much of what
it takes of a device lies in holes. Streams other than the first are not told apart.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Container, Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench import memory_oracle
from bench.memory_cases import Case
from bench.memory_tracker import Alive
from rldsl.backends.comm import Comm
from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.optim import Optimizer
from rldsl.compiler.cost.activations import FLOAT32
from rldsl.compiler.cost.axes import Axes

SPREAD = "rldsl_spread_keys"
LENGTH = 8192
LARGE = 1 << 20
STEPS = 3


def _spread(owner: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
    """Keys and values are copied to all query heads."""
    group = query.shape[1] // key.shape[1]
    key, value = (t[:, :, None].expand(-1, -1, group, -1, -1).reshape(query.shape) for t in (key, value))
    return scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(SPREAD, _spread)


def _kept(seen: Counter[bool], context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    """Attention's result and every second product, the first one included."""
    aten = torch.ops.aten
    product = op.overloadpacket is aten.mm
    seen[context.is_recompute] += product
    kept = op.overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu
    kept |= product and seen[context.is_recompute] % 2 == 1
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _recompute(scorer: Scorer, case: Case) -> None:
    """Each layer counts its own products."""
    options = {
        "use_reentrant": False,
        "context_fn": lambda: create_selective_checkpoint_contexts(partial(_kept, Counter())),
    }
    scorer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    scorer.model.train()


_build = memory_oracle.build


def _built(case: Case, comm: Comm, mesh: Any) -> tuple[Scorer, Optimizer | None]:
    scorer, optimizer = _build(case, comm, mesh)
    scorer.model.config._attn_implementation = SPREAD
    return scorer, optimizer


@dataclass(frozen=True, slots=True)
class Event:
    """A storage of so many bytes has so many now."""

    storage: int
    before: int
    now: int


class Log(Alive):
    """Remembers what it counts, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._names = count()

    def _set(self, size: list[int], new: int) -> None:
        # The tracker hands out one list for each storage: its second number is the storage's name here.
        if len(size) == 1:
            size.append(next(self._names))
        if new != size[0]:
            self.events.append(Event(size[1], size[0], new))
        super()._set(size, new)

    def _freed(self, size: list[int]) -> None:
        self.events.append(Event(size[1], size[0], 0))
        super()._freed(size)


class Pool:
    """One stream's, with expandable segments: the smallest hole that is large enough, else more of the device.

    As CUDACachingAllocator.cpp of torch has it for large blocks: sizes are multiples of 512 bytes, and what a block
    leaves of a hole is a hole only if it is above 1 MiB. Blocks below that have a pool of their own, left out here.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._holes: list[tuple[int, int]] = []
        self._blocks: dict[Hashable, tuple[int, int]] = {}

    def __contains__(self, name: Hashable) -> bool:
        return name in self._blocks

    def take(self, name: Hashable, size: int) -> None:
        """A block of so many bytes."""
        size = -(-size // 512) * 512
        fitting = [i for i, (_, room) in enumerate(self._holes) if room >= size]
        if fitting:
            best = min(fitting, key=lambda i: self._holes[i][1])
            start, room = self._holes.pop(best)
            if room - size > LARGE:
                self._holes.insert(best, (start + size, room - size))
                room = size
        else:
            last = self._holes[-1] if self._holes else (0, 0)
            start, room = (self._holes.pop()[0] if sum(last) == self.taken and last[1] else self.taken), size
            self.taken = start + size
        self._blocks[name] = start, room

    def give(self, name: Hashable) -> None:
        """The block back; holes that touch become one."""
        start, room = self._blocks.pop(name)
        at = bisect(self._holes, (start, 0))
        if at < len(self._holes) and self._holes[at][0] == start + room:
            room += self._holes.pop(at)[1]
        if at and sum(self._holes[at - 1]) == start:
            at -= 1
            before = self._holes.pop(at)
            start, room = before[0], room + before[1]
        self._holes.insert(at, (start, room))

    def follow(self, events: Iterable[Event], held: Container[int], step: int) -> None:
        """A step's allocations, but for what is `held` from before."""
        for event in events:
            name = (step, event.storage)
            if event.storage in held or max(event.before, event.now) < LARGE:
                continue
            if name in self:
                self.give(name)
            if event.now:
                self.take(name, event.now)


def _one_micro_batch(scorer: Scorer, optimizer: Optimizer, case: Case) -> None:
    torch.autograd.backward(memory_oracle._loss(scorer, case))
    optimizer.step(memory_oracle.STEP)


def _logged(case: Case) -> tuple[Log, set[int], int, list[int]]:
    """A steady step, the names of what is held before it, where its optimiser begins, and sizes of the masters."""
    log = Log()
    with memory_oracle._pretended(case) as (comm, mesh):
        scorer, optimizer = memory_oracle.build(case, comm, mesh)
        assert optimizer is not None
        _one_micro_batch(scorer, optimizer, case)
        log.add(memory_oracle.held_between_steps(scorer, optimizer))
        held = {event.storage for event in log.events}
        log.events.clear()
        with log:
            torch.autograd.backward(memory_oracle._loss(scorer, case))
            backward = len(log.events)
            optimizer.step(memory_oracle.STEP)
        ranks = case.axes.shards
        return log, held, backward, [FLOAT32 * -(-p.numel() // ranks) for p in scorer.parameters()]


def _taken(log: Log, held: set[int], backward: int, masters: list[int]) -> int:
    """Bytes that a pool takes in the end: masters first, moments behind the first backward pass, then more steps."""
    pool = Pool()
    for number, size in enumerate(masters):
        pool.take(("master", number), size)
    for step in range(STEPS):
        pool.follow(log.events[:backward], held, step)
        for number, size in enumerate(masters if not step else ()):
            pool.take(("first moment", number), size)
            pool.take(("second moment", number), size)
        pool.follow(log.events[backward:], held, step)
    return pool.taken


def measured(gpus: int, rows: int) -> tuple[int, int]:
    """Bytes at the peak of a step of Llama 3 8B over `gpus` with `rows` rows on each, and what a pool takes for it."""
    case = Case(
        model="Llama-3.1-8B",
        axes=Axes(dp=gpus),
        packs=rows,
        length=LENGTH,
        states=rows * LENGTH,
        masked=False,
        recompute="selective",
        logits="whole",
    )
    with ExitStack() as stack:
        for name, patch in {"_recompute": _recompute, "build": _built}.items():
            stack.enter_context(mock.patch.object(memory_oracle, name, patch))
        found = _logged(case)
        return found[0].peak, _taken(*found)
