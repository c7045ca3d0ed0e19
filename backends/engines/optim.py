"""AdamW over float32 master weights, with the gradient clipped by its norm over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rldsl.compiler.ops import TrainOp
from rldsl.diagnostics import fail

if TYPE_CHECKING:
    from rldsl.backends.comm import Comm
    from rldsl.backends.engines.module import Scorer


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Optimizer:
    """Steps those parameters of `scorer` that require a gradient, trunk and all heads.

    Parameters in bfloat16 are copies: their float32 masters live here, get each gradient as soon as it is
    complete, and are copied back after a step. Float32 parameters (all of them under FSDP) are their own masters.
    `buffers` is where gradients of the former are summed, room alone between steps.
    """

    def __init__(self, scorer: Scorer, comm: Comm) -> None:
        self.scorer, self.comm = scorer, comm
        self.parameters = {n: p for n, p in scorer.named_parameters() if p.requires_grad}
        self.buffers: list[Tensor] = []
        self.masters = {name: self._master(p) for name, p in self.parameters.items()}
        self._adam: torch.optim.AdamW | None = None

    def _master(self, parameter: Tensor) -> Tensor:
        if parameter.dtype == torch.float32:
            return parameter
        master = parameter.detach().float()
        # Written over at each step's first gradient: fresh memory would cost more than the sum itself.
        buffer = torch.empty_like(master)
        self.buffers.append(buffer)

        def collect(done: Tensor) -> None:
            assert done.grad is not None
            if master.grad is None:
                master.grad = buffer.copy_(done.grad)
            else:
                master.grad += done.grad
            done.grad = None

        register: Callable[[Callable[[Tensor], None]], object] = parameter.register_post_accumulate_grad_hook
        register(collect)
        return master

    def moments(self) -> list[Tensor]:
        """What AdamW has kept so far, nothing before the first step."""
        states = [] if self._adam is None else self._adam.state.values()
        return [value for each in states for value in each.values() if isinstance(value, Tensor)]

    def load_masters(self, state: dict[str, Tensor]) -> None:
        """Set float32 masters, of which the parameters keep only bfloat16."""
        for name, master in self.masters.items():
            if master is not self.parameters[name]:
                master.copy_(state[name])

    def _gradients(self, head: int | None) -> Iterable[Tensor]:
        others = self.scorer.beside(head)
        for name, master in self.masters.items():
            if name in others:
                # A step with one head leaves the others where they are, momentum or not: Adam skips them.
                assert master.grad is None, f"a gradient for `{name}`, in which head {head} has no part"
                continue
            if master.grad is None:
                # But a zero gradient moves parameters by their momentum, as it does when its rows are not skipped.
                master.grad = torch.zeros_like(master)
            yield local(master.grad)

    def _norm(self, gradients: list[Tensor]) -> float:
        norms = torch.stack(torch._foreach_norm(gradients)).double()
        total = self.comm.all_reduce(norms.square().sum()) if self.comm.world_size > 1 else norms.square().sum()
        return float(total.sqrt())

    def step(self, op: TrainOp, head: int | None = None) -> float:
        """One AdamW step of the trunk and `head` with the settings of `op`; returns the norm before clipping.

        RL0709 if that is not finite.
        """
        gradients = list(self._gradients(head))
        norm = self._norm(gradients)
        if not norm < float("inf"):
            fail(
                "RL0709",
                f"the gradient of model `{op.model}` is not finite: its norm is {norm}",
                fix="lower the learning rate, or look for a division or a logarithm of 0 in the loss",
            )
        if norm > op.max_grad_norm > 0:
            torch._foreach_mul_(gradients, op.max_grad_norm / (norm + 1e-6))
        self._prepared(op).step()
        self._publish()
        return norm

    def _prepared(self, op: TrainOp) -> torch.optim.AdamW:
        if self._adam is None:
            self._adam = torch.optim.AdamW(self.masters.values(), fused=True)
        for group in self._adam.param_groups:
            group.update(lr=op.lr, betas=(op.beta1, op.beta2), weight_decay=op.weight_decay)
        return self._adam

    def _publish(self) -> None:
        copies = [(p, self.masters[n]) for n, p in self.parameters.items() if p is not self.masters[n]]
        for master in self.masters.values():
            master.grad = None
        if copies:
            with torch.no_grad():
                torch._foreach_copy_([c for c, _ in copies], [m for _, m in copies])
