"""A contestant's process as the parent sees it: it may crash, hang, or answer with garbage, and then it is named."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.measure.rounds import Round
from bitnet_bench.records import RuntimeParity, Value

Answer = TypeVar("Answer", bound=Value)
WORKER = (sys.executable, "-m", "bitnet_bench.measure.worker")
GATE = (sys.executable, "-m", "bitnet_bench.measure.gate")
SHOWN = 60
"""Characters of an answer that is none."""


class Opened(Value):
    """What opening took."""

    load_s: float = Field(gt=0)
    resident_weight_bytes: int = Field(gt=0)
    kv_per_token: int = Field(ge=0)
    resident_by_kind: dict[str, int]
    memory_method: str


class Peak(Value):
    """What an untimed run took."""

    peak_bytes: int = Field(gt=0)


class Child:
    """One contestant in a process of its own; a `rounds.Contender`."""

    def __init__(self, name: str, task: dict[str, Any], timeout_s: float, command: tuple[str, ...] = WORKER) -> None:
        self.name = name
        self._task, self._timeout_s, self._command = task, timeout_s, command
        self.opened: Opened | None = None

    def open(self) -> Opened:
        """Start the process and load the contestant; BenchError if that fails."""
        self._start()
        self.opened = self._ask(self._task, Opened)
        return self.opened

    def check(self) -> RuntimeParity:
        """Start the process, which is that of `GATE`, and return what it finds; BenchError if that fails."""
        self._start()
        return self._ask(self._task, RuntimeParity)

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            start_new_session=True,  # so that a runtime that it starts ends with it
            env={**os.environ, "OMP_NUM_THREADS": str(self._task["threads"])},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """End the process and whatever it started."""
        if not hasattr(self, "_process"):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._errors.close()

    def warm_up(self, batch: int) -> int:
        """Run once, untimed, and return the peak of memory in bytes."""
        return self._ask({"do": "warm up", "batch": batch}, Peak).peak_bytes

    def round(self, batch: int) -> Round:
        """Run one round; BenchError if it did not do what was asked."""
        found = self._ask({"do": "round", "batch": batch}, Round)
        asked = self._task["new_tokens"]
        if found.new_tokens != asked or len(found.token_s) != asked - 1:
            raise BenchError(
                f"{self.name} gave {found.new_tokens} new tokens and {len(found.token_s) + 1} times where {asked} were "
                "asked for.",
                "Its timings would be of another scenario.",
            )
        return found

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _ask(self, request: dict[str, Any], kind: type[Answer]) -> Answer:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer that does not come says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        try:
            answer = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self.close()
            raise BenchError(
                f"{self.name} did not answer within {self._timeout_s:g} s.", "It hangs, or --timeout is too short."
            ) from None
        if not answer:
            raise self._died()
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BenchError(
                f"{self.name} answered what cannot be ({where}: {first['msg']}): {answer.strip()[:SHOWN]!r}.",
                "Its backend is broken.",
            ) from error

    def _died(self) -> BenchError:
        status = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        return BenchError(
            f"Measuring {self.name} failed: {last}",
            f"Its process ended with status {status}; a negative one is a signal (-9: memory).",
        )
