"""Send a request again while a server is busy or away: longer and longer apart, and not forever."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from bitnet_bench.backends.openai.transport import RESUMES, TransientError
from bitnet_bench.errors import EndpointLostError, RequestRefusedError

MAX_ATTEMPTS = 8
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
MAX_RETRY_AFTER_S = 600.0
"""Longest wait that a server may ask for."""
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class StoppedError(Exception):
    """The requests are not wanted any more."""


class Retrier:
    """Repeats requests of several threads to one server; what one of them is told to wait, all wait.

    Waits double from `FIRST_WAIT_S` to `MAX_WAIT_S`, each shortened at random by up to a half, so that threads do not
    return together. A server that says Retry-After decides itself.
    """

    def __init__(
        self,
        host: str,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._host, self._clock, self._draw = host, clock, draw
        self._stop = threading.Event()
        self._given_wait, self._wait = wait, wait or self._stop.wait
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._has_warned = False

    def renew(self) -> Retrier:
        """Return one like this that is not stopped."""
        return Retrier(self._host, self._clock, self._given_wait, self._draw)

    def stop(self) -> None:
        """End all waiting with a StoppedError."""
        self._stop.set()

    def run(self, send: Callable[[], Result]) -> Result:
        """Return what *send* returns; EndpointLostError or RequestRefusedError after `MAX_ATTEMPTS` that failed."""
        attempt = 0
        while True:
            self._wait_for_turn()
            try:
                return send()
            except TransientError as error:
                attempt += 1
                if self._stop.is_set():
                    raise StoppedError from None
                self._check_hope(error, attempt)
                self._warn(error)
                self._postpone(error, attempt)

    def _wait_for_turn(self) -> None:
        while (left := self._not_before - self._clock()) > 0 and not self._stop.is_set():
            self._wait(left)
        if self._stop.is_set():
            raise StoppedError

    def _check_hope(self, error: TransientError, attempt: int) -> None:
        """Raise the error that ends the attempts, if it is time."""
        problem = f"{self._host} {error.why}"
        if error.retry_after_s is not None and error.retry_after_s > MAX_RETRY_AFTER_S:
            raise EndpointLostError(f"{problem}, and asks to wait {error.retry_after_s:,.0f} s.", RESUMES)
        if attempt >= MAX_ATTEMPTS:
            problem = f"{problem}; {attempt} attempts failed."
            if error.is_away:
                raise EndpointLostError(problem, f"Look at the server. {RESUMES}")
            raise RequestRefusedError(problem, f"Look at the server's log. {RESUMES}")

    def _postpone(self, error: TransientError, attempt: int) -> None:
        longest = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
        seconds = longest * (1 - self._draw() / 2) if error.retry_after_s is None else error.retry_after_s
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def _warn(self, error: TransientError) -> None:
        with self._lock:
            first, self._has_warned = not self._has_warned, True
        if first:
            _log.warning("%s %s: requests are sent again, up to %d times.", self._host, error.why, MAX_ATTEMPTS)
