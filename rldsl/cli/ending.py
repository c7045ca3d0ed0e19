"""How a run ends when it is told to, and what it leaves: the states that its ranks have moved off their devices go."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rldsl.backends.folder import OFFLOADED
from rldsl.cli.entry import TERMINATED

UNWIND_S = 10.0  # what SIGTERM leaves the main thread to end by itself; schedulers kill after some 30 s


@contextmanager
def tidy(run_dir: Path) -> Iterator[None]:
    """No state that ranks moved off their devices stays, neither of an earlier run that was killed nor of this one.

    SIGTERM, which schedulers send to the first process or to all of them, ends what is inside as Ctrl-C does. What is
    then raised is `KeyboardInterrupt(SIGTERM)`.
    """
    _remove(run_dir)
    try:
        if threading.current_thread() is threading.main_thread():  # signals are for this one alone
            with _terminable(run_dir):
                yield
        else:
            yield
    finally:
        _remove(run_dir)


@contextmanager
def _terminable(run_dir: Path) -> Iterator[None]:
    late = threading.Timer(UNWIND_S, _give_up, [run_dir])
    late.daemon = True
    told = False

    def terminate(number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal told
        told = True
        signal.signal(number, signal.SIG_IGN)  # it may come to the process and to its group: once is enough
        late.start()
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except BaseException:
        if told:  # Ray, whose servers may end as well, raises errors of its own on the way out
            raise KeyboardInterrupt(signal.SIGTERM) from None
        raise
    finally:
        late.cancel()
        signal.signal(signal.SIGTERM, usual)


def _give_up(run_dir: Path) -> NoReturn:
    """The main thread is stuck: Ray's waits a minute for servers of Ray's that were told to end, too."""
    _remove(run_dir)
    print("\nterminated", file=sys.stderr, flush=True)
    os._exit(TERMINATED)


def _remove(run_dir: Path) -> None:
    for left in run_dir.glob(OFFLOADED.format(rank="*")):
        shutil.rmtree(left, ignore_errors=True)
