"""Control the process of a candidate: it may crash, hang, or answer with garbage, and the error then names it."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.machine.threads import OPENMP_ENVIRONMENT
from bitnet_bench.measurement.budget import OutOfBudgetError, format_duration
from bitnet_bench.measurement.lifeline import Lifeline
from bitnet_bench.measurement.messages import (
    MAX_CHARACTERS_SHOWN,
    MeasuringTask,
    OpenResult,
    ParityTask,
    ProbeResult,
    Request,
)
from bitnet_bench.measurement.readings import Round
from bitnet_bench.runs.records import RuntimeParity
from bitnet_bench.runs.value import Value

Answer = TypeVar("Answer", bound=Value)
PYTHON = (sys.executable, "-P")
"""Command of the interpreter. `-P` keeps the current folder off the path: a file called `random.py` there must not be
run."""
WORKER_COMMAND = (*PYTHON, "-m", "bitnet_bench.measurement.worker")
PARITY_COMMAND = (*PYTHON, "-m", "bitnet_bench.measurement.parity_check")
WAIT_STEP_S = 1.0
"""Seconds between two calls that show progress while a process works."""


def wait_silently() -> None:
    """Do nothing while a process works."""


class CandidateProcess:
    """One candidate in its own process; a `rounds.RoundRunner`.

    A request that exceeds its limit ends the process: OutOfBudgetError if the limit is below `timeout_s`, else
    BenchError, because the process hangs. *waiting* is called every second meanwhile.
    """

    def __init__(
        self,
        name: str,
        task: ParityTask,
        timeout_s: float,
        command: tuple[str, ...] = WORKER_COMMAND,
        waiting: Callable[[], None] = wait_silently,
    ) -> None:
        self.name = name
        self._task, self._timeout_s, self._command, self._waiting = task, timeout_s, command, waiting
        self.opened: OpenResult | None = None

    def open(self, within_s: float = math.inf) -> OpenResult:
        """Start the process and load the candidate; BenchError if that fails."""
        self._start()
        self.opened = self._send_request(self._task, OpenResult, within_s, "Loading it")
        return self.opened

    def check(self, within_s: float = math.inf) -> RuntimeParity:
        """Start the process, which runs `PARITY_COMMAND`, and return its result; BenchError if that fails."""
        self._start()
        return self._send_request(self._task, RuntimeParity, within_s, "Comparing it with its checkpoint")

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `close`
        self._lifeline = Lifeline()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that a runtime that it starts ends with it
            pass_fds=(self._lifeline.child_end,),
            env={
                **OPENMP_ENVIRONMENT,
                **os.environ,
                **self._lifeline.environment,
                "PYTHONIOENCODING": "utf-8:backslashreplace",  # whatever the terminal has, messages are UTF-8
                "OMP_NUM_THREADS": str(self._task.threads),
            },
        )
        self._lifeline.hand_over()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read_lines, daemon=True).start()

    def close(self) -> None:
        """End the process and its descendants."""
        if not hasattr(self, "_process"):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._lifeline.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._errors.close()

    def probe(self, batch: int, within_s: float = math.inf) -> float:
        """Return how many seconds one run will take, estimated from shorter ones."""
        return self._send_request(Request(do="probe", batch=batch), ProbeResult, within_s, "A probe of it").run_s

    def warm_up(self, batch: int, within_s: float = math.inf) -> Round:
        """Run the warm-up round, which includes the peak of memory over a process that has only imported."""
        found = self._run_round(Request(do="warm up", batch=batch), within_s, "Its warm-up")
        if found.peak_bytes is None:
            raise BenchError(f"{self.name} did not say how much memory it took.", "Its backend is broken.")
        return found

    def round(self, batch: int, within_s: float = math.inf) -> Round:
        """Run one round; BenchError if it did not do what was requested."""
        return self._run_round(Request(do="round", batch=batch), within_s, "A round of it")

    def _run_round(self, request: Request, within_s: float, doing: str) -> Round:
        found = self._send_request(request, Round, within_s, doing)
        assert isinstance(self._task, MeasuringTask), "a process that compares has no rounds"
        asked = self._task.new_tokens
        if found.new_tokens != asked or len(found.token_s) != asked - 1:
            raise BenchError(
                f"{self.name} gave {found.new_tokens} new tokens and {len(found.token_s) + 1} times where {asked} were "
                "asked for.",
                "Its timings would be of another scenario.",
            )
        return found

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # the streams may be closed meanwhile
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _send_request(self, request: Value, kind: type[Answer], within_s: float, doing: str) -> Answer:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer is reported below
            self._process.stdin.write(request.model_dump_json() + "\n")
            self._process.stdin.flush()
        answer = self._wait_for_line(min(self._timeout_s, within_s))
        if answer is None:
            self.close()
            if within_s < self._timeout_s:
                raise OutOfBudgetError(f"{doing} took more than {format_duration(within_s)}, which was its share.")
            raise BenchError(
                f"{self.name} did not answer within {self._timeout_s:g} s.", "It hangs, or `timeout_s` is too short."
            )
        if not answer:
            raise self._make_exit_error()
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
            raise BenchError(
                f"{self.name} answered what cannot be ({format_validation_error(error)}): "
                f"{answer.strip()[:MAX_CHARACTERS_SHOWN]!r}.",
                "Its backend is broken.",
            ) from error

    def _wait_for_line(self, limit_s: float) -> str | None:
        """Return the next line of the process, or None if none arrives within *limit_s*."""
        ends = time.monotonic() + limit_s
        while True:
            left = ends - time.monotonic()
            try:
                return self._lines.get(timeout=max(0.0, min(left, WAIT_STEP_S)))
            except queue.Empty:
                if left <= WAIT_STEP_S:
                    return None
                self._waiting()

    def _make_exit_error(self) -> BenchError:
        status = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        return BenchError(
            f"Measuring {self.name} failed: {last}",
            f"Its process ended with status {status}; a negative one is a signal (-9: memory).",
        )
