"""Failure detection: a daemon thread on every rank: says where it is, sees when a peer has died.

Peers of the same host are looked up by pid, so a `kill -9` is seen within one beat. For other hosts each rank
watches the heartbeat of the next rank (a ring: the store's load grows with the ranks, not their square),
and whoever sees a death tells all through the store. The thread ends the process itself: the main thread
may be stuck in a collective that no longer has a peer.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import msgspec

from rldsl.backends.failure import INTERRUPTED, TERMINATED, USER_ERROR, Failure
from rldsl.backends.processes import alive, host_id, start_time
from rldsl.backends.rendezvous import Place
from rldsl.backends.status import Status, place
from rldsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S = 0.5
STALE_BEATS = 40  # 20 s: longer than any pause of a healthy interpreter that we have seen, below the promised 30 s
UNWIND_S = 3.0  # what Ctrl-C leaves the main thread to take away half-written files
VERDICT_S = 2.0  # what SIGTERM leaves to find out whether a dead peer is the reason


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One heartbeat. `number` counts up; a reader judges by its own clock, so clocks need not agree."""

    number: int
    host: str
    pid: int
    op: str
    node: str
    step: int
    steps: int
    done: bool = False

    @staticmethod
    def key(rank: int) -> str:
        """Where rank's heartbeat lies in the store."""
        return f"rldsl/beat/{rank}"

    @staticmethod
    def of(store: Store, rank: int) -> Beat | None:
        """The last heartbeat of `rank`, if it has ever sent one. Does not wait."""
        if not store.check([Beat.key(rank)]):
            return None
        return msgspec.json.decode(store.get(Beat.key(rank)), type=Beat)


def peer_died(store: Store, rank: int, how: str, *, observer: Status | None = None) -> Diagnostic:
    """RL0701 about `rank`, told by `observer` (None: by the launcher)."""
    beat = Beat.of(store, rank)
    where = place(beat.op, beat.node, beat.step, beat.steps) if beat else "start-up"
    who = f"rank {rank} (pid {beat.pid} on {beat.host.split('|')[0]})" if beat else f"rank {rank}"
    seen = () if observer is None else (f"seen by rank {observer.rank} in {observer.where()}",)
    return Diagnostic(
        code="RL0701",
        message=f"{who} died in {where}",
        found=how,
        notes=seen,
        fix="look for its last words above and for the out-of-memory killer in the system's log (`dmesg`)",
    )


class Watch:
    """The watch of one rank. `relay`: the launcher tells the user, so this rank stays silent.

    `below` is the folder of the states that are off its device: it goes when the process ends badly.
    `owns_signals`: this process is the rank's own, so handle SIGTERM and SIGINT, and go when its parent goes; must
    then be made in the main thread. `serves`: the store is in this process.
    """

    def __init__(
        self,
        status: Status,
        place: Place,
        store: Store,
        below: Path,
        *,
        relay: bool,
        owns_signals: bool,
        serves: bool,
    ) -> None:
        self._serves, self._below = serves, below
        self._status, self._place, self._store, self._relay = status, place, store, relay
        self._parent = os.getppid() if owns_signals else None
        self._host, self._number, self._stopped = host_id(), 0, False
        self._local = _Local(self._host)
        self._neighbour = _Neighbour((place.rank + 1) % place.world_size)
        self._deadline: tuple[float, Callable[[], None]] | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        if owns_signals:
            self._take_signals()
        self._thread = threading.Thread(target=self._run, name="rldsl-watch", daemon=True)

    def _take_signals(self) -> None:
        # The wake-up pipe is written by the C-level handler, so the thread hears of a signal even
        # when the main thread is stuck in C++ and no Python handler can run.
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _ignore)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(self) -> None:
        """Make this rank known to its peers and begin."""
        self._local.join(self._store, self._status.rank)
        self._publish()
        self._thread.start()

    def finish(self) -> None:
        """This rank has ended well: its absence is no death."""
        self._stopped = True
        os.write(self._writer, b"\0")
        self._thread.join(timeout=10)
        self._publish(done=True)

    def report(self, failure: Failure) -> None:
        """From the main thread: make `failure` known to all; tell the user if it is the first."""
        try:
            first = failure.post(self._store)
        except RuntimeError:  # the store went away with its process: nobody else can be told
            first = True
        if first and not self._relay:
            failure.tell()

    def await_verdict(self, seconds: float) -> None:
        """Give the thread time to find the cause of a broken connection; it then ends the process."""
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._wait()
                self._look()
        except RuntimeError:  # every error of the store
            self._store_lost()

    def _wait(self) -> None:
        ready, _, _ = select.select([self._reader], [], [], BEAT_S)
        for number in os.read(self._reader, 64) if ready else b"":
            if number == signal.SIGINT:
                self._deadline = (time.monotonic() + UNWIND_S, self._interrupted)
            if number == signal.SIGTERM and self._deadline is None:
                self._deadline = (time.monotonic() + VERDICT_S, self._terminated)

    def _look(self) -> None:
        if self._stopped:
            return
        failure = Failure.posted(self._store)
        if failure is not None:
            self._follow(failure)
        dead = self._dead()
        if dead is not None and not self._interrupting:
            self._end(self._died(*dead))
        self._publish()
        if self._parent is not None and os.getppid() != self._parent:
            self._end(self._orphaned())
        if self._deadline is not None and time.monotonic() > self._deadline[0]:
            self._deadline[1]()

    @property
    def _interrupting(self) -> bool:
        return self._deadline is not None and self._deadline[1] == self._interrupted

    def _publish(self, *, done: bool = False) -> None:
        now = self._status
        self._number += 1
        beat = Beat(
            number=self._number,
            host=self._host,
            pid=os.getpid(),
            op=now.op,
            node=now.node,
            step=now.step,
            steps=now.steps,
            done=done,
        )
        self._store.set(Beat.key(now.rank), msgspec.json.encode(beat).decode())

    def _dead(self) -> tuple[int, str] | None:
        """A dead peer and how we know."""
        for rank, pid, started in self._local.members(self._store):
            if not alive(pid, started) and not self._is_done(rank):
                return rank, f"process {pid} is gone without a word (killed, or crashed)"
        if self._place.world_size > 1:
            return self._neighbour.look(self._store, self._host)
        return None

    def _is_done(self, rank: int) -> bool:
        beat = Beat.of(self._store, rank)
        return beat is not None and beat.done

    def _died(self, rank: int, how: str) -> Failure:
        told = peer_died(self._store, rank, how, observer=self._status)
        return Failure(rank=self._status.rank, code=USER_ERROR, diagnostics=(told,))

    def _where(self) -> str:
        return f"rank {self._status.rank} was in {self._status.where()}"

    def _orphaned(self) -> Failure:
        told = Diagnostic(code="RL0701", message=f"the process that started the ranks died; {self._where()}")
        return Failure(rank=self._status.rank, code=USER_ERROR, diagnostics=(told,))

    def _interrupted(self) -> None:
        self._end(Failure(rank=self._status.rank, code=INTERRUPTED))

    def _terminated(self) -> None:
        told = Diagnostic(code="RL0701", message=f"the run was told to end (SIGTERM); {self._where()}")
        self._end(Failure(rank=self._status.rank, code=TERMINATED, diagnostics=(told,)))

    def _follow(self, failure: Failure) -> None:
        """Another rank has told the cause: end in silence. A Ctrl-C of ours still gets its time to unwind."""
        if not self._interrupting:
            self.leave(failure.code)

    def _end(self, failure: Failure) -> NoReturn:
        self.report(failure)
        self.leave(failure.code)

    def leave(self, code: int) -> NoReturn:
        """End this process, after the others have had time to hear why if the store goes with it."""
        if self._serves and self._place.world_size > 1:
            time.sleep(3 * BEAT_S)
        self._leave(code)

    def _leave(self, code: int) -> NoReturn:
        """End this process now; the main thread, which would tidy up, may be stuck."""
        shutil.rmtree(self._below, ignore_errors=True)
        leave(code)

    def _store_lost(self) -> None:
        if self._stopped:
            return
        if self._deadline is not None:
            self._leave(INTERRUPTED if self._interrupting else TERMINATED)
        holder = "the launcher" if self._relay else self._gone_locally() or "the launcher, or rank 0 on another host,"
        told = Diagnostic(
            code="RL0701", message=f"{holder} died, and with it the store through which ranks meet; {self._where()}"
        )
        # Nothing is left to agree through on who tells: rank 0 does, if it lives.
        if not self._relay or self._status.rank == 0:
            Failure(rank=self._status.rank, code=USER_ERROR, diagnostics=(told,)).tell()
        self._leave(USER_ERROR)

    def _gone_locally(self) -> str:
        gone = [rank for rank, pid, started in self._local.known if not alive(pid, started)]
        return f"rank {gone[0]}" if gone else ""


class _Local:
    """The ranks of this host, as (rank, pid, start time), from a list in the store that only grows."""

    def __init__(self, host: str) -> None:
        self._key = f"rldsl/host/{host}"
        self.known: list[tuple[int, int, str]] = []

    def join(self, store: Store, rank: int) -> None:
        """Add this process."""
        index = store.add(f"{self._key}/count", 1) - 1
        store.set(f"{self._key}/{index}", f"{rank}:{os.getpid()}:{start_time(os.getpid())}")

    def members(self, store: Store) -> list[tuple[int, int, str]]:
        """All that have joined so far. Does not wait."""
        while store.check([f"{self._key}/{len(self.known)}"]):
            rank, pid, started = store.get(f"{self._key}/{len(self.known)}").decode().split(":")
            self.known.append((int(rank), int(pid), started))
        return self.known


class _Neighbour:
    """The heartbeat of the next rank, if it runs on another host."""

    def __init__(self, rank: int) -> None:
        self.rank, self._last, self._misses = rank, -1, 0

    def look(self, store: Store, host: str) -> tuple[int, str] | None:
        """The rank and how we know, when its beat has stood still; looks are counted, not seconds."""
        beat = Beat.of(store, self.rank)
        if beat is None or beat.done or beat.host == host:
            return None
        self._misses = self._misses + 1 if beat.number == self._last else 0
        self._last = beat.number
        if self._misses < STALE_BEATS:
            return None
        return self.rank, f"no heartbeat for {STALE_BEATS * BEAT_S:.0f} s from host {beat.host.split('|')[0]}"


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A Python handler must exist for the wake-up pipe to be written; the thread does the rest."""


def leave(code: int) -> NoReturn:
    """End this process now, from any thread, without waiting for collectives or destructors."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
