"""Run pieces of work in a few threads and give their results as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bitnet_bench.backends.openai.retrying import StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_concurrently(
    items: Sequence[Item], work: Callable[[Item], Result], threads: int, stop: Callable[[], None]
) -> Iterator[Result]:
    """Yield *work* of each of *items*, in the order in which they end.

    After an error no further item is begun, and what others have begun is still given before it is raised. *stop* is
    called when the results are not wanted any more, and lets the work that is under way end with a StoppedError.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ended: queue.SimpleQueue[tuple[Result] | Exception | None] = queue.SimpleQueue()
    has_failed = threading.Event()

    def run() -> None:
        try:
            while not has_failed.is_set():
                ended.put((work(waiting.get_nowait()),))
        except (queue.Empty, StoppedError):
            pass
        except Exception as error:
            has_failed.set()
            ended.put(error)
        finally:
            ended.put(None)  # this thread is done

    # daemons: a thread that waits for a server does not keep the program from ending
    count = min(threads, len(items))
    crew = [threading.Thread(target=run, name=f"asks a server {i}", daemon=True) for i in range(count)]
    failure: Exception | None = None
    is_whole = False
    try:
        for thread in crew:
            thread.start()
        left = len(crew)
        while left:
            result = ended.get()
            if result is None:
                left -= 1
            elif isinstance(result, Exception):
                failure = failure or result
            else:
                yield result[0]
        is_whole = True
    finally:
        if not is_whole:
            has_failed.set()
            stop()
    if failure is not None:
        raise failure
