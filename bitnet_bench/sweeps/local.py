"""Run steps on this machine, each in a process of its own, as many at a time as their needs leave room for.

The processes are forked from one that has imported the libraries, so that a step starts in milliseconds and still has
memory, threads and failures of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bitnet_bench.errors import UsageError
from bitnet_bench.machine.threads import OPENMP_ENVIRONMENT
from bitnet_bench.processes import ask_to_end_with_parent, count_cores
from bitnet_bench.protocols import Progress
from bitnet_bench.sweeps.executors import ExecutorOptions, RunStep, StepProgress
from bitnet_bench.sweeps.graph import Graph, Needs, Step, StepOutcome

PRELOADED = ["bitnet_bench.sweeps.preload"]
END_S = 30.0
"""Time that a step has to end by itself after it was asked to."""
PROGRESS_S = 0.2
"""Time between two reports of a step's progress."""
VISIBLE_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
Message = tuple[str, Any]


@dataclass(frozen=True)
class Machine:
    """What steps share on this machine."""

    cpus: int
    gpus: tuple[str, ...]
    """Names of the GPUs for `CUDA_VISIBLE_DEVICES`."""
    memory_bytes: int


def look_at_machine() -> Machine:
    """Return the cores, GPUs and memory of this machine, without importing torch."""
    import psutil

    return Machine(count_cores(), _list_gpus(), int(psutil.virtual_memory().total))


def count_gpus(settings: Mapping[str, Any]) -> int:
    """Return how many GPUs this machine has."""
    return len(_list_gpus())


def _list_gpus() -> tuple[str, ...]:
    given = os.environ.get(VISIBLE_DEVICES_VARIABLE)
    if given is not None:
        return tuple(name for name in given.split(",") if name.strip())
    found = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return tuple(str(index) for index in range(len(found)))


@dataclass
class _Running:
    """A step in a process."""

    step: Step
    process: Any
    pipe: Connection
    gpus: tuple[str, ...]
    began_s: float
    outcome: StepOutcome | None = None


class LocalExecutor:
    """Runs steps in processes of this machine."""

    def __init__(self, graph: Graph, run_step: RunStep, jobs: int | None, machine: Machine, context: Any) -> None:
        self._graph, self._run_step, self._machine, self._context = graph, run_step, machine, context
        self._jobs = jobs or max(1, len(machine.gpus))
        self._running: dict[str, _Running] = {}
        self._progress: dict[str, StepProgress] = {}

    def check(self, graph: Graph) -> None:
        """Raise UsageError for a step that needs more than this machine has."""
        for step in graph.steps:
            _check_needs(step, self._machine)

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return those of *ready* that there is room for beside the running steps."""
        chosen: list[Step] = []
        for step in ready:
            if self._has_room([running.step for running in self._running.values()] + chosen, step):
                chosen.append(step)
        return chosen

    def _has_room(self, beside: Sequence[Step], step: Step) -> bool:
        if not beside:
            return True
        if len(beside) >= self._jobs or step.needs.exclusive or any(one.needs.exclusive for one in beside):
            return False
        held = [one.needs for one in (*beside, step)]
        return (
            sum(one.cpus for one in held) <= self._machine.cpus
            and sum(one.gpus for one in held) <= len(self._machine.gpus)
            and sum(one.memory_bytes for one in held) <= self._machine.memory_bytes
        )

    def submit(self, steps: Sequence[Step]) -> None:
        """Start a process for each of *steps*."""
        for step in steps:
            taken = {gpu for running in self._running.values() for gpu in running.gpus}
            free = [gpu for gpu in self._machine.gpus if gpu not in taken]
            self._start(step, tuple(free[: step.needs.gpus]))

    def _start(self, step: Step, gpus: tuple[str, ...]) -> None:
        ours, theirs = self._context.Pipe()
        log = self._graph.find_log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        visible = ",".join(gpus) if self._machine.gpus else None
        arguments = (self._run_step, step, str(log), theirs, visible, self._share_threads(step.needs))
        process = self._context.Process(target=run_in_worker, args=arguments, name=step.id, daemon=False)
        process.start()
        theirs.close()
        self._running[step.id] = _Running(step, process, ours, gpus, time.monotonic())

    def _share_threads(self, needs: Needs) -> int | None:
        """Return the threads of a step; None, the libraries' own choice, for one that runs alone, as a command does."""
        if self._jobs == 1 or needs.exclusive:
            return None
        return max(needs.cpus, self._machine.cpus // self._jobs)

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Return the outcomes of the steps that have ended; wait for a message at most *timeout_s*."""
        places: dict[Any, _Running] = {}
        for running in self._running.values():
            places |= {running.pipe: running, running.process.sentinel: running}
        ready = wait(list(places), timeout_s) if places else []
        for running in {id(places[one]): places[one] for one in ready}.values():
            self._receive(running)
        ended = [running for running in self._running.values() if not running.process.is_alive()]
        return [self._end(running) for running in ended]

    def _receive(self, running: _Running) -> None:
        with suppress(EOFError, OSError):
            while running.pipe.poll():
                kind, value = running.pipe.recv()
                if kind == "outcome":
                    running.outcome = value
                else:
                    self._progress[running.step.id] = value

    def _end(self, running: _Running) -> StepOutcome:
        self._receive(running)
        running.process.join()
        running.pipe.close()
        del self._running[running.step.id]
        self._progress.pop(running.step.id, None)
        if running.outcome is not None:
            return running.outcome
        return StepOutcome(
            id=running.step.id,
            is_done=False,
            problem=_explain_end(running.process.exitcode, self._graph.find_log(running.step)),
            seconds=time.monotonic() - running.began_s,
            is_lost=True,
        )

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return how far the running steps are."""
        return dict(self._progress)

    def cancel(self) -> None:
        """Interrupt the running steps as Ctrl-C does, and kill those that do not end."""
        for running in self._running.values():
            _signal(running.process, signal.SIGINT)
        deadline = time.monotonic() + END_S
        for running in self._running.values():
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.is_alive():
                _signal(running.process, signal.SIGKILL)
                running.process.join()
            running.pipe.close()
        self._running.clear()
        self._progress.clear()


def _signal(process: Any, number: int) -> None:
    """Send a signal to the process group of *process*, which it leads once it has begun."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
        return
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _explain_end(code: int, log: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        memory = " The system may have had no memory left." if -code == signal.SIGKILL else ""
        return f"Its process was ended by {name}.{memory}\n  The end of {log} may say more; the same command resumes."
    return f"Its process ended with status {code} without a result.\n  The end of {log} may say more."


def _check_needs(step: Step, machine: Machine) -> None:
    wanted = {
        "cores": (step.needs.cpus, machine.cpus),
        "GPUs": (step.needs.gpus, len(machine.gpus)),
        "bytes of memory": (step.needs.memory_bytes, machine.memory_bytes),
    }
    for what, (needed, there) in wanted.items():
        if needed > there:
            where = f"Line {step.line}: " if step.line else ""
            raise UsageError(
                f"{where}{step.id} needs {needed:,} {what}, and this machine has {there:,}.",
                "Lower `needs`, or run the sweep where there are more.",
            )


@contextmanager
def open_executor(graph: Graph, run_step: RunStep, options: ExecutorOptions) -> Iterator[LocalExecutor]:
    """Yield an executor on this machine; the process that steps are forked from ends with it."""
    for name, value in OPENMP_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    executor = LocalExecutor(graph, run_step, options.jobs, look_at_machine(), context)
    try:
        yield executor
    finally:
        executor.cancel()


def run_in_worker(
    run_step: RunStep, step: Step, log: str, pipe: Connection, gpus: str | None, threads: int | None
) -> None:
    """Run *step* in this process, whose output goes to the file *log*, and send its outcome through *pipe*."""
    os.setpgrp()  # Ctrl-C reaches the scheduler alone, which passes it on once
    ask_to_end_with_parent()
    _end_with_scheduler()
    _redirect_output(log)
    if gpus is not None:
        os.environ[VISIBLE_DEVICES_VARIABLE] = gpus
    if threads is not None:
        _use_threads(threads)
    try:
        pipe.send(("outcome", run_step(step, _ReportingDisplay(pipe))))
    except KeyboardInterrupt:
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_scheduler() -> None:
    """Kill this process and what it has started when the scheduler is killed, so that the next call can resume.

    The process that steps are forked from lives on while one of them does, and so its end tells nothing.
    """
    scheduler = multiprocessing.parent_process()
    if scheduler is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, args=(scheduler.sentinel,), daemon=True).start()


def _redirect_output(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _use_threads(count: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(count)  # for processes that the step starts
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


class _ReportingDisplay:
    """Sends how far a step is to the scheduler, a few times a second."""

    def __init__(self, pipe: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe, self._clock, self._last = pipe, clock, 0.0

    def __call__(self, title: str) -> AbstractContextManager[Progress]:
        return self._report(title)

    @contextmanager
    def _report(self, title: str) -> Iterator[Progress]:
        self._send(StepProgress(title))

        def progress(done: int, total: int, note: str = "") -> None:
            now = self._clock()
            if now - self._last >= PROGRESS_S:
                self._last = now
                self._send(StepProgress(title, done, total, note))

        yield progress

    def _send(self, progress: StepProgress) -> None:
        with suppress(OSError):
            self._pipe.send(("progress", progress))
