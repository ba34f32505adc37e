"""Run pieces of work in a few threads and give their results as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, TypeVar

from bitnet_bench.backends.openai.retrying import StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_concurrently(
    items: Sequence[Item], work: Callable[[Item], Result], threads: int, stop: Callable[[], None]
) -> Generator[Result, None, None]:
    """Yield *work* of each of *items*, in the order in which they end.

    After an error no further item is begun, and what others have begun is still given before it is raised. *stop* is
    called when the results are not wanted any more, and lets the work that is under way end with a StoppedError.
    """
    crew = _Crew(items, work)
    is_whole = False
    try:
        yield from crew.run(min(threads, len(items)))
        is_whole = True
    finally:
        if not is_whole:
            crew.is_stopped.set()
            stop()
    if crew.failure is not None:
        raise crew.failure


class _Crew(Generic[Item, Result]):
    """Threads that take one item after the other."""

    def __init__(self, items: Sequence[Item], work: Callable[[Item], Result]) -> None:
        self._work = work
        self._waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
        for item in items:
            self._waiting.put(item)
        self._ended: queue.SimpleQueue[tuple[Result] | Exception | None] = queue.SimpleQueue()
        self.is_stopped = threading.Event()
        self.failure: Exception | None = None
        """The first error."""

    def run(self, count: int) -> Iterator[Result]:
        """Yield the results of *count* threads."""
        for number in range(count):
            # daemons: a thread that waits for a server does not keep the program from ending
            threading.Thread(target=self._take_items, name=f"asks a server {number}", daemon=True).start()
        while count:
            result = self._ended.get()
            if result is None:
                count -= 1
            elif isinstance(result, Exception):
                self.failure = self.failure or result
            else:
                yield result[0]

    def _take_items(self) -> None:
        try:
            while not self.is_stopped.is_set():
                self._ended.put((self._work(self._waiting.get_nowait()),))
        except (queue.Empty, StoppedError):
            pass
        except Exception as error:
            self.is_stopped.set()
            self._ended.put(error)
        finally:
            self._ended.put(None)  # this thread is done
