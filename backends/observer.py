"""Who wants to see a run as it goes: the terminal view, or nobody."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from rldsl.backends.failure import plain
from rldsl.compiler.ops import AnyOp
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Metrics = Mapping[str, float | None]
POLL_S = 0.05


class Observer(Protocol):
    """Called on rank 0's behalf, in the process that called `run`, and not always in its main thread."""

    def on_start(self, plan: Plan, steps: int) -> None:
        """The run begins."""

    def on_warning(self, warning: Diagnostic) -> None:
        """What the user should know before the first step."""

    def on_op(self, op: AnyOp) -> None:
        """Rank 0 enters `op`."""

    def on_step(self, metrics: Metrics) -> None:
        """A step has ended; `metrics` is what `metrics.jsonl` got."""

    def on_end(self) -> None:
        """The run is over, well or not. Called exactly once."""


class Silent:
    """Sees nothing, and writes warnings to stderr: who starts ranks on their own is told too."""

    def on_start(self, plan: Plan, steps: int) -> None:
        """Nothing."""

    def on_warning(self, warning: Diagnostic) -> None:
        """Plain text."""
        print(plain(warning), file=sys.stderr, flush=True)

    def on_op(self, op: AnyOp) -> None:
        """Nothing."""

    def on_step(self, metrics: Metrics) -> None:
        """Nothing."""

    def on_end(self) -> None:
        """Nothing."""


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    warning: Diagnostic | None = None
    op: str | None = None
    metrics: dict[str, float | None] | None = None


def _key(number: int) -> str:
    return f"rldsl/event/{number}"


class Sender:
    """On rank 0 of a run with workers: passes on what happens, through the launcher's store."""

    def __init__(self, store: Store) -> None:
        self._store, self._number = store, 0
        self._alone = threading.Lock()

    def _send(self, event: _Event) -> None:
        # Lines of steps may come from a thread of their own.
        with self._alone:
            self._store.set(_key(self._number), msgspec.json.encode(event).decode())
            self._number += 1

    def on_start(self, plan: Plan, steps: int) -> None:
        """Nothing: the launcher knows."""

    def on_warning(self, warning: Diagnostic) -> None:
        """Pass it on."""
        self._send(_Event(warning=warning))

    def on_op(self, op: AnyOp) -> None:
        """Pass it on."""
        self._send(_Event(op=op.id))

    def on_step(self, metrics: Metrics) -> None:
        """Pass it on."""
        self._send(_Event(metrics=dict(metrics)))

    def on_end(self) -> None:
        """Nothing: the launcher sees us end."""


class Receiver:
    """In the launcher: a thread that takes the events of rank 0 from the store to the observer."""

    def __init__(self, store: Store, plan: Plan, steps: int, observer: Observer) -> None:
        self._store, self._observer, self._number = store, observer, 0
        self._ops = {op.id: op for op in plan.ops()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rldsl-observer", daemon=True)
        observer.on_start(plan, steps)
        self._thread.start()

    def close(self) -> None:
        """Deliver what is left, then say that the run is over."""
        self._stop.set()
        self._thread.join()
        self._observer.on_end()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while self._store.check([_key(self._number)]):
            event = msgspec.json.decode(self._store.get(_key(self._number)), type=_Event)
            self._store.delete_key(_key(self._number))
            self._number += 1
            if event.warning is not None:
                self._observer.on_warning(event.warning)
            if event.op is not None:
                self._observer.on_op(self._ops[event.op])
            if event.metrics is not None:
                self._observer.on_step(event.metrics)
