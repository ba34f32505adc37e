"""Evaluate in several processes, started by `torchrun` or `accelerate launch`.

Every worker plans the same batches and computes its share of them; then all workers get all answers. The numbers are
those of one process, whatever the number of workers.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from bitnet_bench.errors import BenchError

PR_SET_PDEATHSIG = 1
Value = TypeVar("Value")
LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LONE_TOKENS = 4096
"""Most tokens of a batch where workers cannot agree on a number: any GPU that a model fits has the memory for them."""
WORKER_TIMEOUT = datetime.timedelta(days=7)
"""Time that a worker waits for the others; a worker that dies ends them all through the launcher."""


def count_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ask_to_end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends; nothing happens on other systems."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


STOPPED_STATUS = 75
"""Exit status of a process that has saved its state and ended because it was asked to (EX_TEMPFAIL)."""
_stop = threading.Event()


def request_stop() -> None:
    """Ask this process to save at the next chance and to end, as before a time limit; for a handler of a signal."""
    _stop.set()


def is_stop_requested() -> bool:
    """Return whether this process was asked to save and to end."""
    return _stop.is_set()


@dataclass(frozen=True)
class Workers:
    """The processes that evaluate together, seen from one of them."""

    worker: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """True for the worker that writes files and messages."""
        return self.worker == 0

    @property
    def are_joined(self) -> bool:
        """True if workers wait for one another, and so all get all answers."""
        return self.count > 1

    def broadcast(self, value: Value) -> Value:
        """Return the first worker's *value* on all workers."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def reduce_min(self, value: int) -> int:
        """Return the minimum of *value* over all workers."""
        everyone = [value] * self.count
        if self.count > 1:
            import torch.distributed as dist

            dist.all_gather_object(everyone, value)
        return min(everyone)

    def gather(self, found: dict[int, Any], error: BenchError | None) -> dict[int, Any]:
        """Return what all workers have *found*; an error of one of them is raised on all."""
        if error is not None and self.count == 1:
            raise error
        mine = found, error and (error.problem, error.hint)
        everyone: list[Any] = [mine] * self.count
        if self.count > 1:
            import torch.distributed as dist

            dist.all_gather_object(everyone, mine)
        for _, said in everyone:
            if said is not None:
                raise BenchError(*said)
        return {i: answer for part, _ in reversed(everyone) for i, answer in part.items()}


class LoneWorker(Workers):
    """One of several workers that know nothing of one another: it gets no answers but its own."""

    @property
    def is_first(self) -> bool:
        """True: each writes files of its own."""
        return True

    @property
    def are_joined(self) -> bool:
        """False: none waits for another."""
        return False

    def broadcast(self, value: Value) -> Value:
        """Return *value*."""
        return value

    def reduce_min(self, value: int) -> int:
        """Return *value* up to a bound that does not depend on the machine, so that all cut the same batches."""
        return min(value, LONE_TOKENS)

    def gather(self, found: dict[int, Any], error: BenchError | None) -> dict[int, Any]:
        """Return what this worker has *found*; raise its *error*."""
        if error is not None:
            raise error
        return found


def is_first_process() -> bool:
    """Return whether this is the process that writes messages."""
    return not _is_launched() or os.environ["RANK"] == "0"


def count_processes() -> int:
    """Return how many processes `torchrun` or `accelerate launch` started together; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_rank() -> int:
    """Return the rank of this process among those that were launched together, from 0 on."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def join_workers() -> Iterator[Workers]:
    """Join the processes that were launched together and yield this worker; a single process is the only worker."""
    if not _is_launched():
        yield Workers()
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=WORKER_TIMEOUT)  # answers are small and on the CPU
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _is_launched() -> bool:
    return all(name in os.environ for name in LAUNCH_VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1
