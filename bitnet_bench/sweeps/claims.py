"""Let one attempt at a step at most run at a time, on a shared folder whose locks need not work.

A node that the network has lost may still compute while the step is given to another one. So each attempt writes a file
with a name of its own into the folder, again and again, and looks whether a later attempt has replaced it; that one
begins when the former has noticed, or has long been silent.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.runs.value import Value

CLAIMS_FOLDER = "claims"
BEAT_S = 2.0
"""Time between two signs of life."""
SILENT_S = 20.0
"""Time after which an attempt that gives no sign is taken for dead: it has not reached the folder for ten beats."""
POLL_S = 0.2


class _Sign(Value):
    """A sign of life of an attempt, as its file says it."""

    token: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Name of the attempt, which is also a part of a file name."""
    beats: int
    host: str
    boot: str
    process: int = Field(gt=0, lt=2**31)


class Claim:
    """The claim of one attempt to run a step."""

    def __init__(
        self,
        folder: Path,
        step: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._file = folder / CLAIMS_FOLDER / f"{step}.json"
        self._clock, self._sleep = clock, sleep
        self._token, self._beats, self._last_s = secrets.token_hex(8), 0, float("-inf")

    def take(self) -> None:
        """Take the step over, and return when no other attempt runs it any more."""
        former = self._read()
        self._beat()
        if former is None or _has_died(former):
            return
        ended = self._find_end(former.token)
        heard, beats = self._clock(), former.beats
        while not ended.exists() and self._clock() - heard < SILENT_S:
            self._sleep(POLL_S)
            self.keep()
            # a beat that was under way when this claim replaced it
            said = self._read()
            if said is not None and said.token == former.token and said.beats != beats:
                heard, beats = self._clock(), said.beats
                self._beat()
        ended.unlink(missing_ok=True)

    def keep(self) -> bool:
        """Give a sign of life if one is due; return False if another attempt has taken the step over."""
        if self._clock() - self._last_s < BEAT_S:
            return True
        said = self._read()
        if said is not None and said.token != self._token:
            return False
        self._beat()
        return True

    def release(self) -> None:
        """Say that this attempt runs nothing any more."""
        said = self._read()
        if said is not None and said.token == self._token:
            self._file.unlink(missing_ok=True)
        elif said is not None:
            with suppress(BenchError):
                write_whole(self._find_end(self._token), "")

    def _beat(self) -> None:
        self._beats, self._last_s = self._beats + 1, self._clock()
        said = _Sign(token=self._token, beats=self._beats, host=platform.node(), boot=_read_boot(), process=os.getpid())
        with suppress(BenchError):  # the folder may be away for a moment, and is missed later if it stays away
            write_whole(self._file, said.model_dump_json())

    def _read(self) -> _Sign | None:
        """Return the last sign of life; None if there is none that can be read."""
        try:
            return _Sign.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return None

    def _find_end(self, token: str) -> Path:
        return self._file.with_name(f"{self._file.stem}.{token}.ended")


def _read_boot() -> str:
    """Return what tells this machine, since it was started, from all others; "" where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _has_died(said: _Sign) -> bool:
    """Return whether an attempt ran on this machine, and its process has ended."""
    if not said.boot or said.boot != _read_boot() or said.host != platform.node():
        return False
    try:
        os.kill(said.process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
