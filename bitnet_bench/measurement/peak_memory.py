"""How much memory a contestant takes: its peak, over what it had before it loaded anything."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SAMPLE_INTERVAL_S, MIN_PAUSE_RATIO = 0.02, 5.0
"""Between two readings, and at least so many times as long as one takes: the run is not to be slowed."""
GPU_PEAK_METHOD = "peak of torch's allocator on the GPU in the warm-up"
PROC = Path("/proc")


def read_memory_bytes(pid: int | str = "self", proc: Path = PROC) -> int | None:
    """Return the memory of a process in bytes: mapped files whole, the rest as PSS; None where there is no PSS.

    Contestants share the pages of libraries and of a checkpoint, and each of them needs them all: by PSS a process
    would shrink when another one starts. Of its own memory a process shares only what a fork of it has.
    """
    total, is_file = 0, False
    try:
        with (proc / str(pid) / "smaps").open() as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name == ("Rss" if is_file else "Pss"):
                    total += int(rest.split()[0]) * 1024
                elif not name[0].isupper():  # addresses, permissions, offset, device, inode: 0 is no file
                    is_file = line.split()[4] != "0"
    except OSError:
        return None
    return total or None


class PeakMemory:
    """The most memory of this process and its children, read again and again and whenever it is asked for."""

    def __init__(self) -> None:
        self._most = 0

    @property
    def method(self) -> str:
        """How the peak is read."""
        if read_device_peak() is not None:
            return GPU_PEAK_METHOD
        if read_memory_bytes() is None:
            return "largest resident memory over the process before loading"
        return "peak of the warm-up (mapped files whole, the rest as PSS) over the process before loading"

    def read(self) -> int:
        """Read now, and return the most so far."""
        self._most = max(self._most, self._read_now())
        return self._most

    @contextlib.contextmanager
    def watch_peak(self) -> Iterator[None]:
        """Read again and again meanwhile."""
        ended = threading.Event()

        def watch() -> None:
            pause = SAMPLE_INTERVAL_S
            while not ended.wait(pause):
                began = time.perf_counter()
                self.read()
                pause = max(SAMPLE_INTERVAL_S, MIN_PAUSE_RATIO * (time.perf_counter() - began))

        self._most = 0
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.read()
            ended.set()
            thread.join()

    def _read_now(self) -> int:
        own = read_memory_bytes()
        if own is None:
            return _largest_resident()
        return own + sum(read_memory_bytes(pid) or 0 for pid in _list_children())


def read_device_peak() -> int | None:
    """Return the most bytes that torch's allocator held on the GPU; None where none holds anything."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated()) or None


def _list_children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


def _largest_resident() -> int:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
