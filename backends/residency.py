"""What of this rank's models is on the device, and what has been taken off it: the moves of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rldsl.backends.background import Background, Begun
from rldsl.backends.comm import Comm
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.tiers import CHUNK, Contents, DiskShelf, Movable, PinnedShelf, Shelf
from rldsl.backends.folder import OFFLOADED
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, State, SyncWeightsOp, Tier
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError

Key = tuple[str, State, int]
"""The model whose trunk it is, which of its states, and of an engine the staleness of its rollouts."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A state on its way back; `op` has begun that, in the step that `step` tells in words."""

    task: Begun[None]
    op: str
    step: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.task.seconds

    def result(self) -> None:
        """Wait until it is there."""
        try:
            self.task.result()
        except DiagnosticError as error:
            note = f"`{self.op}` was to bring it back in the background, {self.step}"
            raise DiagnosticError(replace(d, notes=(*d.notes, note)) for d in error.diagnostics) from None


class Residency:
    """The states that the ops of this rank move, and those that a step begins without.

    `models` and `samplers` are those of the runtime, which may still be empty. Each state that moves to a disk, on a
    CPU each that moves, has a file in the folder `offload-RANK` of `run_dir`, until `close`.
    """

    def __init__(
        self,
        plan: Plan,
        comm: Comm,
        ops: Sequence[AnyOp],
        *,
        run_dir: Path,
        models: Mapping[str, Model],
        samplers: Mapping[tuple[str, int], Sampler],
    ) -> None:
        self._models, self._samplers, self._comm = models, samplers, comm
        self._folder = run_dir / OFFLOADED.format(rank=comm.rank)
        moves = [op for op in ops if isinstance(op, (OnloadOp, OffloadOp))]
        self._returning = {_key(op) for op in moves if isinstance(op, OnloadOp)}
        self._states = {key: self._movable(key, tier) for key, tier in {_key(op): op.tier for op in moves}.items()}
        self._thread = Background("rldsl-onload", comm.device)
        states = plan.memory.states if plan.memory is not None else ()
        self._elsewhere = {(s.model, s.state, s.staleness) for s in states if not s.resident} & self._states.keys()

    def _movable(self, key: Key, tier: Tier) -> Movable:
        return Movable(lambda: self._contents(key), self._shelf(key, tier))

    def _shelf(self, key: Key, tier: Tier) -> Shelf:
        model, state, staleness = key
        path = self._folder / (f"{model}.{state}" + (f".{staleness}" if staleness else "") + ".bin")
        device = self._comm.device
        if device.type != "cuda":
            return DiskShelf(path)
        return PinnedShelf(device) if tier is Tier.HOST else DiskShelf(path, chunk=CHUNK)

    def _contents(self, key: Key) -> Contents:
        name, state, staleness = key
        if state is State.ENGINE:
            # Ranks that only help to gather the weights have none.
            sampler = self._samplers.get((name, staleness))
            return Contents(sampler.scorer.parameters() if sampler is not None else ())
        model = self._models[name]
        if model.optimizer is None:
            return Contents(model.scorer.parameters() if state is State.WEIGHTS else ())
        if state is State.WEIGHTS:
            return Contents([*model.scorer.parameters(), *model.optimizer.masters.values()])
        return Contents(model.optimizer.moments(), model.optimizer.buffers)

    def begin(self, model: str, state: State, staleness: int = 0) -> None:
        """A state has just been made: off it goes if steps begin without it."""
        key = model, state, staleness
        if key in self._elsewhere:
            self._states[key].offload(store=key in self._returning)

    @contextmanager
    def at_hand(self, model: str) -> Iterator[None]:
        """Inside, the weights of `model` are on the device, also before the first step."""
        weights = self._states.get((model, State.WEIGHTS, 0))
        if weights is None or not weights.away:
            yield
            return
        weights.onload()
        try:
            yield
        finally:
            weights.offload(store=False)

    def onload(self, op: OnloadOp) -> Coming | None:
        """Bring a state back; or begin to, in the background: then it is there once that has ended."""
        state = self._states[_key(op)]
        if op.background:
            return Coming(state.begin(self._thread), op.id, self._comm.status.step_words)
        state.onload()
        return None

    def offload(self, op: OffloadOp) -> None:
        """Take a state off the device.

        What is dropped without ever having been written, and will be asked for, are weights that nothing trains: they
        are written once, as their source may be a hub and their shards are this rank's own.
        """
        state = self._states[_key(op)]
        state.offload(store=op.keep or (_key(op) in self._returning and not state.stored))

    def renew(self, op: SyncWeightsOp) -> None:
        """The engine of `op` is about to get new weights in place of those that it had."""
        engine = self._states.get((op.model, State.ENGINE, op.staleness))
        if engine is None:
            return
        if engine.away:
            engine.make_room()
        engine.stored = False

    def close(self) -> None:
        """Remove what lies on the tiers below; nothing more comes from there."""
        self._thread.close()
        for state in self._states.values():
            state.close()


def _key(op: OnloadOp | OffloadOp) -> Key:
    return op.model, op.state, op.staleness
