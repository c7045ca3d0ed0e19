"""What a rank does beside its program: one thread that calls one thing after the other, in the order in which asked."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# How long a thread that computes in Python keeps the interpreter from the others. Python's 5 ms would be 5 ms for each
# of the thousands of operations of a forward: the main thread gives the interpreter up in each, and must get it back.
SWITCH_S = 1e-4


class Begun(Protocol[T_co]):
    """What runs beside the program, or will."""

    @property
    def seconds(self) -> float:
        """How long it took, beside whatever else went on; known once it has ended."""

    def result(self) -> T_co:
        """Wait for it; what it returned, or what it raised."""


@dataclass(eq=False)
class Task(Generic[T]):
    """Something that runs, or will. `seconds` is how long it has taken, without what it waited for its turn."""

    work: Callable[[], T]
    seconds: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)
    _made: list[T] = field(default_factory=list)
    _error: BaseException | None = None

    def result(self) -> T:
        """Wait for it; what it returned, or what it raised."""
        # A Ctrl-C interrupts this wait, as the thread that waits is the main one.
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._made[0]

    def run(self) -> None:
        """Called once, by the thread."""
        began = time.perf_counter()
        try:
            self._made.append(self.work())
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - began
        self._done.set()


_Tasks = queue.SimpleQueue[Task[Any] | None]


class Background:
    """A thread of this rank, made when first needed: functions of a file of the user's never run at once.

    It is the same for the whole run, so that what a function keeps by thread it finds again. On a GPU it has a stream
    of its own: its work neither waits for the program's nor holds that up.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._tasks: _Tasks | None = None

    def start(self, work: Callable[[], T]) -> Task[T]:
        """Call `work` when all that was asked for earlier is done. It sees what the device was told to do so far."""
        if self._tasks is None:
            self._tasks = queue.SimpleQueue[Task[Any] | None]()
            # A daemon: a function that never returns must not keep a process that ends.
            threading.Thread(target=_serve, args=(self._tasks, self._device), name=self._name, daemon=True).start()
            weakref.finalize(self, self._tasks.put, None)
        task: Task[T] = Task(_ordered(work, self._device))
        self._tasks.put(task)
        return task

    def close(self) -> None:
        """Forget what has not begun, and let the thread end."""
        while self._tasks is not None and not self._tasks.empty():
            self._tasks.get()
        if self._tasks is not None:
            self._tasks.put(None)
            self._tasks = None


class _Brisk:
    """The interpreter changes threads often while any of them has a task."""

    def __init__(self) -> None:
        self._lock, self._inside, self._usual = threading.Lock(), 0, SWITCH_S

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(SWITCH_S)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)

    def busy(self) -> bool:
        """Whether any has a task."""
        return self._inside > 0


_brisk = _Brisk()


def busy() -> bool:
    """Whether something runs in the background of this process."""
    return _brisk.busy()


def _serve(tasks: _Tasks, device: torch.device) -> None:
    # The main thread has one without asking, and functions rely on it.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # each thread has a current device, and a current stream, of its own
        make_stream: Any = torch.cuda.Stream
        torch.cuda.set_stream(make_stream(device))
    while (task := tasks.get()) is not None:
        with _brisk:
            task.run()
        del task  # its rows are not this thread's to keep
    loop.close()


def _ordered(work: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """On a GPU `work` begins behind what the caller's stream has been given, and has ended when it returns."""
    if device.type != "cuda":
        return work
    caller = torch.cuda.current_stream(device)
    before = caller.record_event()

    def ordered() -> T:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(before)
        made = work()
        stream.synchronize()
        for tensor in _tensors(made):
            tensor.record_stream(caller)  # its memory is this stream's, and not free before the caller has read it
        return made

    return ordered


def _tensors(made: object) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, tuple | list):
        for each in made:
            yield from _tensors(each)
