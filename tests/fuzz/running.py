"""Run the cases of a parser in forked processes, with a limit on their time, memory and words."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fuzz.parsers import Parser, mutate_case

HANG_S = 5.0
"""Seconds of computing after which a case hangs."""
MAX_WALL_S = 60.0
MAX_BYTES = 1 << 30
"""Memory that a case may take."""
MAX_CHARACTERS = 2100
"""Length of a message with its hint."""
BATCH = 250


@dataclass(frozen=True)
class Fault:
    """A case that did not end in a value or in a sentence."""

    parser: str
    case: int
    kind: str
    """What happened and where, so that equal faults can be counted."""
    said: str


class _HangError(BaseException):
    """A case took too long; no `Exception`, so that nothing in between can catch it."""


def run_cases(parser: Parser, cases: range, start: int) -> Iterator[Fault | None]:
    """Yield for each case its fault, or None; a process that dies takes only its case with it."""
    with tempfile.TemporaryDirectory(prefix="bitnet-bench-fuzz-") as name:
        at = cases.start
        while at < cases.stop:
            part = range(at, min(at + BATCH, cases.stop))
            for number, fault in _run_batch(parser, part, start, Path(name)):
                at = number + 1
                yield fault


def _run_batch(parser: Parser, cases: range, start: int, work: Path) -> Iterator[tuple[int, Fault | None]]:
    """Run *cases* in one forked process; yield (case, fault), the last of them one that the process died of."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _work(parser, cases, start, work / f"{cases.start}", writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    done = cases.start
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            number, fault = json.loads(line)
            done = number + 1
            yield number, Fault(**fault) if fault else None
    _, status = os.waitpid(child, 0)
    if done < cases.stop:
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        yield done, Fault(parser.name, done, f"the process died: {ended}", "")


def _work(parser: Parser, cases: range, start: int, work: Path, pipe: int) -> None:
    """Run *cases* in this process and write a line for each to *pipe*."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    _limit_memory(MAX_BYTES * 3 // 2)
    signal.alarm(0)
    seeds = work / "seed"
    seeds.mkdir(parents=True)
    parser.prepare(seeds)
    seed = (seeds / parser.file).read_bytes()
    for number in cases:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(MAX_WALL_S * 2))  # ends a process that no exception reaches
        fault = run_case(parser, mutate_case(parser, seed, number, start), number, work / f"case-{number}")
        os.write(pipe, (json.dumps([number, fault.__dict__ if fault else None]) + "\n").encode("ascii"))


def run_case(parser: Parser, data: bytes, number: int, folder: Path) -> Fault | None:
    """Read *data* as the file of *parser* in a new *folder*; return what is wrong with how that ended, or None."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    parser.prepare(folder)
    (folder / parser.file).unlink()
    (folder / parser.file).write_bytes(data)
    _forget_peak()
    before = _read_memory("VmRSS")
    try:
        with _TimeLimit():
            kind, said = _judge(parser, folder)
        grown = _read_memory("VmHWM") - before
        if kind is None and grown > MAX_BYTES:
            kind, said = f"took {grown >> 20} MiB", ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Fault(parser.name, number, kind, said) if kind else None


def _judge(parser: Parser, folder: Path) -> tuple[str | None, str]:
    """Return (what is wrong, details) of how reading ends; (None, "") for a value or a sentence."""
    from bitnet_bench.errors import BenchError

    try:
        parser.read(folder)
    except BenchError as error:
        said = str(error)
        if len(said) > MAX_CHARACTERS:
            return f"a message of {len(said)} characters", said[:300]
        if not any(place in said for place in (Path(parser.file).name, str(folder), *parser.says)):
            return "a message that names no file", said
        return None, ""
    except _HangError:
        return "hangs", "".join(traceback.format_exc())[-1500:]
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames if "bitnet_bench" in frame.filename]
        return f"{type(error).__name__} in {ours[-1] if ours else '?'}", f"{error}"[:300]
    return None, ""


class _TimeLimit:
    """Raises `_HangError` after `HANG_S` of computing, or after `MAX_WALL_S` in any case."""

    def __enter__(self) -> None:
        began, computed = time.monotonic(), time.process_time()

        def look(number: int, frame: FrameType | None) -> None:
            if time.process_time() - computed > HANG_S or time.monotonic() - began > MAX_WALL_S:
                raise _HangError

        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(more_bytes: int) -> None:
    limit = _read_memory("VmSize") + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _read_memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def _forget_peak() -> None:
    """Set the peak of this process's memory to what it takes now."""
    Path("/proc/self/clear_refs").write_text("5")
