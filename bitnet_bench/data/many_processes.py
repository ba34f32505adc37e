"""Map batches in all cores: forked processes that see what their parent holds, and answer in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from bitnet_bench.errors import BenchError
from bitnet_bench.processes import ask_to_end_with_parent, count_cores, count_processes

Task = TypeVar("Task")
Answer = TypeVar("Answer")
WAITING_PER_PROCESS = 3
"""Batches that wait for each process: memory is bounded by them, whatever the number of batches."""
_work: Callable[[Any], Any] | None = None


def map_in_processes(
    function: Callable[[Task], Answer], tasks: Iterable[Task], processes: int | None = None
) -> Generator[Answer, None, None]:
    """Yield *function* of each of *tasks* in order, computed by forked processes; an exception is raised here.

    *function* may be a closure: processes inherit it, and only tasks and answers travel. A single task, a single core
    and systems other than Linux, where a fork is not safe, are served by this process itself.
    """
    waiting = iter(tasks)
    first = list(islice(waiting, 2))
    count = processes or count_usable_cores()
    if len(first) < 2 or count < 2 or sys.platform != "linux":
        yield from map(function, chain(first, waiting))
        return
    global _work
    _work = function
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin, (os.getpid(),))
    try:
        with warnings.catch_warnings():
            # the parent has threads; the children run this function alone, and touch none of what those hold
            warnings.simplefilter("ignore", DeprecationWarning)
            pending: deque[Future[Answer]] = deque(pool.submit(_call, task) for task in first)
        for task in waiting:
            pending.append(pool.submit(_call, task))
            if len(pending) > count * WAITING_PER_PROCESS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise BenchError(
            "A process that prepares rows was killed, perhaps because memory ran out.", "Free some, and start again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        _work = None


def count_usable_cores() -> int:
    """Return how many cores this process may use, shared with the processes that were launched beside it."""
    return max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", str(count_processes()))))


def _begin(parent: int) -> None:
    """Prepare a child: it leaves interrupts to its parent, dies with it, and tokenizes in one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ask_to_end_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _call(task: Any) -> Any:
    assert _work is not None, "a child inherits the function"
    return _work(task)
