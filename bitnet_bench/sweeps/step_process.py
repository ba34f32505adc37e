"""Run one step in a process of its own on the machine of a cluster, and return how it ended, whatever happens to it.

The process gets the step as JSON and the name of the function that runs it: nothing is pickled. A step of several
processes is started by torchrun.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.processes import STOPPED_STATUS, ask_to_end_with_parent, read_rank, request_stop
from bitnet_bench.protocols import Progress
from bitnet_bench.sweeps.executors import RunStep, StepProgress
from bitnet_bench.sweeps.graph import Needs, Step, StepOutcome

MODULE = "bitnet_bench.sweeps.step_process"
STOPPED_FILE = "stopped"
"""File that a process leaves that was asked to end: what starts several of them does not pass their statuses on."""
POLL_S = 0.1
PROGRESS_S = 1.0
"""Time between two reports of a step's progress."""
END_S = 20.0
"""Time that a process has to end after a signal, before it is killed."""
SAVE_SIGNAL = signal.SIGUSR1
"""Signal that asks a step to save what it has, and to end."""
RANK_VARIABLE = "BITNET_BENCH_STEP_RANK"
_PROGRESS = TypeAdapter(StepProgress)
SAVING_KINDS = ("finetune", "search")
"""Kinds of steps that save a state between two steps of training; others are on the disk all the time."""


@dataclass(frozen=True)
class StepCall:
    """What a machine needs to run a step."""

    step: Step
    function: str
    """Function that runs it, as MODULE:FUNCTION."""
    log: str
    progress: str = ""
    """File in which the step reports how far it is; "" for none."""
    folder: str = ""
    """Folder in which it runs; "" is the current one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """Command line that started the sweep, which the step's record names as its own."""


def call_rank(call: StepCall) -> int:
    """Return the number of the process that *call* starts, among those of a step that run on several nodes."""
    return int(call.environment.get("RANK", "0"))


def share_threads(needs: Needs) -> dict[str, str]:
    """Return the variables that give each process of a step its share of the cores; none if it has a whole machine.

    Sums in another number of threads may differ in their last bits, so that it is not left to the machine.
    """
    return {} if needs.exclusive else {"OMP_NUM_THREADS": str(max(1, needs.cpus // needs.processes))}


def name_function(function: RunStep) -> str:
    """Return the name by which another process imports *function*."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    assert name.isidentifier(), f"{function} is not a function of a module"
    return f"{module}:{name}"


def import_function(name: str) -> RunStep:
    """Return the function called MODULE:FUNCTION."""
    module, _, function = name.partition(":")
    found: RunStep = getattr(importlib.import_module(module), function)
    return found


class StepProcess:
    """A step that runs in a process of its own, seen from the process that started it."""

    def __init__(self, call: StepCall) -> None:
        self._call = call
        self._began_s = time.monotonic()
        self._files = tempfile.TemporaryDirectory(prefix="bitnet-bench-step-")
        self._outcome = Path(self._files.name) / "outcome.json"
        self._process = self._start()
        self._is_stopping = False

    def _start(self) -> subprocess.Popen[bytes]:
        call = self._call
        folder = Path(self._files.name)
        (folder / "step.json").write_text(call.step.model_dump_json(), encoding="utf-8")
        (folder / "command.json").write_text(json.dumps(list(call.command)), encoding="utf-8")
        log = Path(call.log).absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", MODULE, call.function, str(folder), call.progress]
        with log.open("ab") as stream:
            _write_heading(stream, call.step)
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=call.folder or None,
                env={**os.environ, **call.environment},
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """True if the process has ended."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Ask the step to save and to end, which a later attempt then goes on from."""
        self._is_stopping = True
        self._signal(SAVE_SIGNAL)

    def kill(self) -> None:
        """End the process and what it has started."""
        self._is_stopping = True
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._files.cleanup()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the process ends within *timeout_s*."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.has_ended

    def read_outcome(self) -> StepOutcome:
        """Return how the step ended; to be called once, when it has."""
        status = self._process.wait()
        self._signal(signal.SIGKILL)  # what it left behind
        outcome = load_outcome(self._outcome)
        stopped = self._is_stopping or status == STOPPED_STATUS or self._outcome.with_name(STOPPED_FILE).exists()
        self._files.cleanup()
        seconds = time.monotonic() - self._began_s
        if outcome is not None:
            return outcome.model_copy(update={"seconds": seconds, "host": platform.node() or None})
        if status == 0 and call_rank(self._call) > 0:  # the first process says how all ended
            return StepOutcome(id=self._call.step.id, is_done=True, seconds=seconds)
        problem = (
            "It was stopped, and goes on when it is run again." if stopped else _explain_end(status, self._call.log)
        )
        return StepOutcome(
            id=self._call.step.id,
            is_done=False,
            problem=problem,
            seconds=seconds,
            host=platform.node() or None,
            is_lost=stopped,
        )

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _write_heading(stream: IO[bytes], step: Step) -> None:
    """Say in the log which attempt begins where: a step that was requeued has several."""
    job = os.environ.get("SLURM_JOB_ID")
    where = platform.node() + (f", SLURM job {job}" if job else "")
    stream.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {step.id} on {where}\n".encode())


def _explain_end(status: int, log: str) -> str:
    if status < 0:
        memory = " The machine may have had no memory left." if -status == signal.SIGKILL else ""
        return f"Its process was ended by {signal.Signals(-status).name}.{memory}\n  The end of {log} may say more."
    return f"Its process ended with status {status} and without a result.\n  The end of {log} may say more."


def load_outcome(file: Path) -> StepOutcome | None:
    """Return the outcome in *file*; None if there is none."""
    try:
        return StepOutcome.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def load_progress(file: Path) -> StepProgress | None:
    """Return how far a step said that it is in *file*; None if it has said nothing."""
    try:
        return _PROGRESS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


class _WritingDisplay:
    """Writes how far a step is to a file, once a second at most."""

    def __init__(self, file: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock, self._last = file, clock, float("-inf")

    def __call__(self, title: str) -> AbstractContextManager[Progress]:
        return self._report(title)

    @contextmanager
    def _report(self, title: str) -> Iterator[Progress]:
        def progress(done: int, total: int, note: str = "") -> None:
            now = self._clock()
            if self._file and now - self._last >= PROGRESS_S:
                self._last = now
                self._write({"title": title, "done": done, "total": total, "note": note})

        progress(0, 0)
        yield progress

    def _write(self, said: Mapping[str, Any]) -> None:
        with suppress(OSError, BenchError):  # a step does not fail for its display
            write_whole(Path(self._file), json.dumps(said))


def main(arguments: list[str]) -> None:
    """Run the step in a folder, and write its outcome beside it: the process that `StepProcess` starts."""
    ask_to_end_with_parent()
    function, place, progress = arguments
    folder = Path(place)
    step = Step.model_validate_json((folder / "step.json").read_text(encoding="utf-8"))
    if step.needs.processes > 1 and RANK_VARIABLE not in os.environ:
        _become_torchrun(step.needs.processes, arguments)
    for number in (SAVE_SIGNAL, signal.SIGTERM):  # a queue that preempts a job sends the second one
        signal.signal(number, lambda number, frame: _stop(step, folder))
    sys.argv = json.loads((folder / "command.json").read_text(encoding="utf-8")) or sys.argv
    outcome = _run(step, import_function(function), progress if read_rank() == 0 else "")
    if read_rank() == 0:
        write_whole(folder / "outcome.json", outcome.model_dump_json())
    sys.exit(0 if outcome.is_done else 1)


def _become_torchrun(processes: int, arguments: list[str]) -> None:
    """Replace this process by torchrun, which starts this module once for each process of the step."""
    os.environ[RANK_VARIABLE] = "1"
    signal.signal(SAVE_SIGNAL, signal.SIG_IGN)  # for the processes of the step, which end it
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", MODULE]
    os.execv(sys.executable, [sys.executable, *launch, *arguments])


def _stop(step: Step, folder: Path) -> None:
    (folder / STOPPED_FILE).touch()
    if step.kind in SAVING_KINDS:
        request_stop()
    else:
        sys.exit(STOPPED_STATUS)


def _run(step: Step, function: RunStep, progress: str) -> StepOutcome:
    try:
        return function(step, _WritingDisplay(progress))
    except Exception as error:
        traceback.print_exc()
        problem = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        return StepOutcome(id=step.id, is_done=False, problem=problem)


if __name__ == "__main__":
    main(sys.argv[1:])
