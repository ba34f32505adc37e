"""Bound the time and memory of untrusted code, such as a chat template."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

REPEAT_SECONDS = 0.5
"""How often the time is looked at again after it was over, in seconds of computing."""


@contextmanager
def bounded(seconds: float, more_bytes: int | None = None) -> Iterator[None]:
    """Raise TimeoutError in the body after *seconds*, and MemoryError if it takes more than *more_bytes* of new memory.

    Time is CPU time, so that a busy machine causes no timeout. Time is bounded in the main thread only, and memory on
    Linux only, because other systems have no such limit.
    """
    with ExitStack() as stack:
        if more_bytes is not None and sys.platform == "linux":
            stack.enter_context(_bounded_memory(more_bytes))
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            stack.enter_context(_bounded_time(seconds))
        yield


@contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        if not _collects_garbage(frame):  # Python prints and drops an exception there; the timer asks again
            raise TimeoutError(f"it takes more than {seconds:g} s of computing")

    before = signal.signal(signal.SIGPROF, stop)
    # repeated, because the code may catch any exception once, as Jinja does when it computes constants
    left, interval = signal.setitimer(signal.ITIMER_PROF, seconds, min(seconds, REPEAT_SECONDS))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        if left:
            signal.setitimer(signal.ITIMER_PROF, left, interval)


def _collects_garbage(frame: FrameType | None) -> bool:
    """Tell whether *frame* runs below a callback of the garbage collector."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False


@contextmanager
def _bounded_memory(more_bytes: int) -> Iterator[None]:
    import resource

    with open("/proc/self/statm", "rb", buffering=0) as file:  # called per row; pathlib takes four times as long
        pages = int(file.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *(n for n in (soft, hard) if n >= 0)]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
