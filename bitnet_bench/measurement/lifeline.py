"""End a process that measures with its parent, even if the parent is killed: it would disturb the next measurement.

On Linux the kernel sends the signal. Everywhere else, and for what the process has started itself, a thread waits for
the end of a pipe whose other end only the parent holds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from bitnet_bench.processes import ask_to_end_with_parent

PARENT_VARIABLE, PIPE_VARIABLE = "BITNET_BENCH_PARENT", "BITNET_BENCH_LIFELINE"
"""Variables that tell a process who started it, and which of its descriptors is the pipe."""


class Lifeline:
    """The parent's side: a pipe that is never written to, and that ends when the parent does."""

    def __init__(self) -> None:
        self.child_end, self._parent_end = os.pipe()

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the variables for the process; `child_end` must be passed on under the same number."""
        return {PARENT_VARIABLE: str(os.getpid()), PIPE_VARIABLE: str(self.child_end)}

    def hand_over(self) -> None:
        """Close the end that the started process has now."""
        os.close(self.child_end)

    def close(self) -> None:
        """Let go of a process that has ended."""
        if self._parent_end >= 0:
            os.close(self._parent_end)
        self._parent_end = -1


def die_with_parent() -> None:
    """Make this process end when the one that started it ends; nothing happens if it was started by hand."""
    parent, pipe = (os.environ.pop(name, "") for name in (PARENT_VARIABLE, PIPE_VARIABLE))
    if not parent or not pipe:
        return
    ask_to_end_with_parent()
    if os.getppid() != int(parent):  # it had ended before the kernel was asked
        _end_group()
    threading.Thread(target=_wait_for_end, args=(int(pipe),), daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    with suppress(OSError):
        while os.read(pipe, 1):
            pass
    _end_group()


def _end_group() -> None:
    """End this process and what it started, if it leads a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def end_orderly_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the block, which ends its processes, and end this process by the signal afterwards.

    In a thread, or if the program has a handler of its own, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    terminated = False

    def unwind(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the clean-up
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if terminated:
            os.kill(os.getpid(), signal.SIGTERM)
