"""Read how much memory a candidate takes: its peak, above what the process had before it loaded anything."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SAMPLE_INTERVAL_S, MIN_PAUSE_RATIO = 0.02, 5.0
"""Seconds between two readings, and the least ratio of that pause to the time of a reading, so that the run is not
slowed."""
GPU_PEAK_METHOD = "peak of torch's allocator on the GPU in the warm-up"
PROC = Path("/proc")


def read_memory_bytes(pid: int | str = "self", proc: Path = PROC) -> int | None:
    """Return the memory of a process in bytes: mapped files whole, the rest as PSS; None if there is no PSS.

    Candidates share the pages of libraries and of a checkpoint, and each of them needs all of them: by PSS a process
    would shrink when another one starts. The process shares its own memory only with its forks.
    """
    total, is_file = 0, False
    try:
        with (proc / str(pid) / "smaps").open() as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name == ("Rss" if is_file else "Pss"):
                    total += int(rest.split()[0]) * 1024
                elif not name[0].isupper():  # addresses, permissions, offset, device, inode: 0 means no file
                    is_file = line.split()[4] != "0"
    except OSError:
        return None
    return total or None


class PeakMemory:
    """The peak memory of this process and its children, read periodically and on request."""

    def __init__(self) -> None:
        self._most = 0

    @property
    def method(self) -> str:
        """Return how the peak is read."""
        if read_device_peak() is not None:
            return GPU_PEAK_METHOD
        if read_memory_bytes() is None:
            return "largest resident memory over the process before loading"
        return "peak of the warm-up (mapped files whole, the rest as PSS) over the process before loading"

    def read(self) -> int:
        """Read the memory now, and return the peak so far."""
        self._most = max(self._most, self._read_now())
        return self._most

    @contextlib.contextmanager
    def watch_peak(self) -> Iterator[None]:
        """Read the memory periodically inside the context."""
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
    """Return the most bytes that torch's allocator held on the GPU; None if it holds nothing."""
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
