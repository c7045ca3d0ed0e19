"""The numbers of steps on their way to rank 0 when ranks run different programs: nobody waits for anybody.

Each rank leaves what it found in a step in the store, one small entry beside its heartbeats, and goes on. A thread of
rank 0 brings the entries of a step together once all ranks have left theirs. So a rank that samples the next step's
rows is not held up by those that still train on this one's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rldsl.backends.comm import Comm, lost
from rldsl.backends.metrics import Part, StepMetrics

Deliver = Callable[[Mapping[str, float | None]], None]
POLL_S = 0.05


class Ledger:
    """The steps of one run. Every rank makes it, after as many others with this `comm` as the other ranks have."""

    def __init__(self, metrics: StepMetrics, comm: Comm) -> None:
        assert comm.store is not None, "ranks that run different programs have met through a store"
        self._metrics, self._comm, self._store = metrics, comm, comm.store
        comm.ledgers += 1
        self._name = f"rldsl/ledger/{comm.ledgers}"
        self._posted = self._read = 0
        self._over = threading.Event()
        self._error: BaseException | None = None

    def post(self, part: Part) -> None:
        """Leave this rank's numbers of the step that it has ended. On rank 0 raises what `deliver` has raised."""
        self._store.set(self._key(self._posted, self._comm.rank), json.dumps(part))
        self._store.add(self._key(self._posted, "count"), 1)
        self._posted += 1
        if self._error is not None:
            raise self._error

    @contextmanager
    def delivering(self, deliver: Deliver) -> Iterator[None]:
        """On rank 0 each step's line goes to `deliver`, in a thread, as soon as all ranks have ended the step.

        At the end waits for those of all steps posted; RL0702 when no rank posts any for as long as a collective may
        take. When the body raises, what is complete is still delivered.
        """
        if self._comm.rank:
            yield
            return
        thread = threading.Thread(target=self._deliver, args=(deliver,), name="rldsl-ledger", daemon=True)
        thread.start()
        try:
            yield
            self._await_others()
        finally:
            self._over.set()
            thread.join()
        if self._error is not None:
            raise self._error

    def _deliver(self, deliver: Deliver) -> None:
        try:
            while not self._over.wait(POLL_S):
                self._drain(deliver)
            self._drain(deliver)
        except BaseException as error:
            self._error = error

    def _drain(self, deliver: Deliver) -> None:
        while self._store.add(self._key(self._read, "count"), 0) == self._comm.world_size:
            keys = [self._key(self._read, rank) for rank in range(self._comm.world_size)]
            parts = [Part(*json.loads(text)) for text in self._store.multi_get(keys)]
            for key in (*keys, self._key(self._read, "count")):
                self._store.delete_key(key)
            deliver(self._metrics.line(self._read, parts))
            self._read += 1

    def _await_others(self) -> None:
        began, read = time.monotonic(), self._read
        while self._read < self._posted and self._error is None:
            if self._read > read:
                began, read = time.monotonic(), self._read
            waited = time.monotonic() - began
            if waited > self._comm.timeout_s:
                late = [r for r in self._comm.members if not self._store.check([self._key(read, r)])]
                lost(self._comm.status, "the end of the step", late, waited, TimeoutError("timed out"))
            time.sleep(POLL_S / 5)

    def _key(self, step: int, what: object) -> str:
        return f"{self._name}/{step}/{what}"
