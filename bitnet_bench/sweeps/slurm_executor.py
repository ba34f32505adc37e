"""Run steps as jobs of a SLURM queue, which go on while nobody waits for them: the same command finds them again.

What was queued is written down before and after, so that a call that was killed in between queues nothing twice. Steps
that are ready together and need the same are one array.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.answer_cache import CACHE_FILE_VARIABLE
from bitnet_bench.files import is_file, read_text, write_whole
from bitnet_bench.processes import count_cores
from bitnet_bench.runs.value import Value
from bitnet_bench.sweeps.cluster_settings import SlurmSettings
from bitnet_bench.sweeps.executors import ExecutorOptions, RunStep, StepProgress
from bitnet_bench.sweeps.graph import Graph, Needs, Step, StepOutcome
from bitnet_bench.sweeps.slurm_jobs import JobOrder, StepJob
from bitnet_bench.sweeps.slurm_queue import LocalQueue, Queue, SlurmQueue
from bitnet_bench.sweeps.step_process import StepCall, load_outcome, load_progress, name_function, share_threads

FOLDER, LEDGER_FILE, JOBS_FOLDER, OUTCOMES_FOLDER = "slurm", "jobs.json", "jobs", "outcomes"
ANSWERS_FOLDER, LOCK_FILE = "answers", ".lock"
LOOK_S, LOCAL_LOOK_S = 5.0, 0.2
"""Time between two looks at the queue; every user of a cluster asks the same process."""
SIGHT_S, LOCAL_SIGHT_S = 40.0, 1.0
"""Time in which a file that another machine wrote is seen in a shared folder."""
RETRIES = 2
"""Times that a job is queued again that was lost with its node."""
MAX_ARRAY = 500
"""Jobs of an array; SLURM takes 1,000 unless it is told otherwise."""
LOST_STATES = ("", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "COMPLETED")
"""States after which a job without a result is queued again: the machine failed, and not the step."""
EXPLAINED = {
    "TIMEOUT": "Its time was up, and it could not save before: give it more `time`, or a longer `signal_s`.",
    "OUT_OF_MEMORY": "It needed more memory than it had asked for: give the step more in `needs`.",
    "CANCELLED": "It was cancelled; the same command queues it again.",
    "FAILED": "Its job failed before the step began.",
}


class _Entry(Value):
    """A job in the ledger."""

    key: str
    name: str
    """Name of the array, by which its jobs are found if their ids were not written down any more."""
    index: int
    attempt: str
    job: str = ""
    retries: int = 0


class _Ledger(Value):
    """The jobs whose outcomes nobody has read yet, by the ids of their steps."""

    jobs: Mapping[str, _Entry] = Field(default_factory=dict)


class SlurmExecutor:
    """Runs steps as jobs of a queue."""

    def __init__(
        self,
        graph: Graph,
        run_step: RunStep,
        settings: SlurmSettings,
        queue: Queue,
        jobs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph, self._settings, self._queue, self._clock = graph, settings, queue, clock
        self._jobs = jobs
        self._function = name_function(run_step)
        self._folder = Path(graph.folder).absolute() / FOLDER
        self._is_local = settings.cluster == "local"
        self._entries = dict(_read_ledger(self._folder / LEDGER_FILE).jobs)
        self._watched: dict[str, Step] = {}
        self._missing_since: dict[str, float] = {}
        self._looked_s = float("-inf")

    def check(self, graph: Graph) -> None:
        """Raise UsageError for a step that SLURM says can never run, or a step of several nodes."""
        asked: dict[str, str] = {}
        for step in graph.steps:
            needs = step.needs.model_dump_json()
            if needs not in asked:
                asked[needs] = self._queue.check(step.needs)
            if asked[needs]:
                where = f"Line {step.line}: " if step.line else ""
                raise UsageError(
                    f"{where}SLURM cannot run {step.id}: {asked[needs]}.",
                    "Change its `needs`, or the partition, account, qos, time or gres.",
                )

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return all of *ready*: they wait in the queue. Without one, return as many as this machine has cores."""
        most = (self._jobs or count_cores()) - len(self._watched) if self._is_local else len(ready)
        return ready[: max(0, most)]

    def submit(self, steps: Sequence[Step]) -> None:
        """Queue those of *steps* that are not in the queue since an earlier call."""
        self._watched |= {step.id: step for step in steps}
        new = [step for step in steps if not self._is_queued(step)]
        for group in _group_alike(new):
            self._queue_steps(group)

    def _is_queued(self, step: Step) -> bool:
        """Return whether a job of an earlier call runs or waits, or has left an outcome that nobody has read."""
        entry = self._entries.get(step.id)
        if entry is None or entry.key != step.key:
            return False
        if entry.job:
            return self._is_under_way(entry)
        found = self._queue.find(entry.name)
        job = next((one for one in found if one.partition("_")[2] in ("", str(entry.index))), "")
        if not job:
            return self._read_outcome(entry) is not None
        self._entries[step.id] = entry.model_copy(update={"job": job})
        self._save()
        return True

    def _is_under_way(self, entry: _Entry) -> bool:
        """Return whether a job waits or runs, has left an outcome, or may have left one that is not seen yet."""
        if self._read_outcome(entry) is not None:
            return True
        states = self._queue.list_states()
        return states is None or states.get(entry.job) is not None or self._queue.explain(entry.job) == "COMPLETED"

    def _queue_steps(
        self, steps: Sequence[Step], after: Sequence[str] = (), retries: int = 0, *, whatever: bool = False
    ) -> None:
        """Queue *steps*, which need the same, as one array."""
        title = self._graph.title or Path(self._graph.folder).absolute().name
        name = f"{title[:40]}-{steps[0].kind}-{secrets.token_hex(3)}".replace(" ", "-")
        for index, step in enumerate(steps):
            attempt = f"{step.id}.{secrets.token_hex(4)}"
            self._entries[step.id] = _Entry(key=step.key, name=name, index=index, attempt=attempt, retries=retries)
        self._save()  # a call that is killed now is found again by the name
        orders = [StepJob(self._order(step)) for step in steps]
        try:
            jobs = self._queue.submit(orders, steps[0].needs, name, after, whatever=whatever)
        except BenchError:
            for step in steps:
                del self._entries[step.id]
            self._save()
            raise
        for step, job in zip(steps, jobs, strict=True):
            self._entries[step.id] = self._entries[step.id].model_copy(update={"job": job})
        self._save()

    def _order(self, step: Step) -> JobOrder:
        answers = os.environ.get(CACHE_FILE_VARIABLE)
        if answers is None:
            folder = self._folder.parent / ANSWERS_FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            answers = str(folder)
        log = self._graph.find_log(step).absolute()
        environment = share_threads(step.needs) | {CACHE_FILE_VARIABLE: answers}
        progress = str(self._find_progress(step))
        call = StepCall(step, self._function, str(log), progress, os.getcwd(), environment, tuple(sys.argv))
        fields = {name: getattr(call, name) for name in StepCall.__dataclass_fields__}
        return JobOrder(
            call=fields | {"step": step.model_dump(mode="json")},
            outcome=str(self._find_outcome(self._entries[step.id])),
            shared=str(self._folder.parent),
            signal_s=self._settings.signal_s,
        )

    def _find_progress(self, step: Step) -> Path:
        return self._folder / OUTCOMES_FOLDER / f"{step.id}.progress"

    def _find_outcome(self, entry: _Entry) -> Path:
        return self._folder / OUTCOMES_FOLDER / f"{entry.attempt}.json"

    def _read_outcome(self, entry: _Entry) -> StepOutcome | None:
        return load_outcome(self._find_outcome(entry))

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Return the outcomes that jobs have written, and those of jobs that left the queue without one."""
        deadline = self._clock() + timeout_s
        while not (found := self._collect()) and self._clock() < deadline:
            time.sleep(min(0.1, timeout_s))
        return found

    def _collect(self) -> list[StepOutcome]:
        folder = self._folder / OUTCOMES_FOLDER
        written = set(os.listdir(folder)) if folder.is_dir() else set()  # asks the server, where a cache says no
        ended = [name for name in self._watched if self._find_outcome(self._entries[name]).name in written]
        outcomes = [outcome for name in ended if (outcome := self._read_outcome(self._entries[name])) is not None]
        for outcome in outcomes:
            self._forget(outcome.id)
        return outcomes + self._find_lost()

    def _forget(self, name: str) -> None:
        """Forget a job whose outcome is known now."""
        step = self._watched.pop(name)
        entry = self._entries.pop(name)
        self._missing_since.pop(name, None)
        self._save()
        for file in (self._find_outcome(entry), self._find_progress(step)):
            file.unlink(missing_ok=True)

    def _find_lost(self) -> list[StepOutcome]:
        """Queue again what left the queue without an outcome; return the outcomes of what that does not help."""
        now = self._clock()
        if not self._watched or now - self._looked_s < (LOCAL_LOOK_S if self._is_local else LOOK_S):
            return []
        self._looked_s = now
        states = self._queue.list_states()
        if states is None:
            return []
        found = []
        for name, step in list(self._watched.items()):
            if states.get(self._entries[name].job) is not None:
                self._missing_since.pop(name, None)
                continue
            missing_s = now - self._missing_since.setdefault(name, now)
            if missing_s >= (LOCAL_SIGHT_S if self._is_local else SIGHT_S) and (lost := self._lose(step)):
                found.append(lost)
        return found

    def _lose(self, step: Step) -> StepOutcome | None:
        entry = self._entries[step.id]
        outcome = self._read_outcome(entry)
        if outcome is None:
            state = self._queue.explain(entry.job)
            del self._missing_since[step.id]
            if state in LOST_STATES and entry.retries < RETRIES:
                self._queue_steps([step], retries=entry.retries + 1)
                return None
            why = EXPLAINED.get(state, "")
            problem = f"The job {entry.job} left the queue without a result{f', as {state}' if state else ''}. {why}"
            log = self._folder / JOBS_FOLDER / f"{entry.job}_0_log.out"
            outcome = StepOutcome(
                id=step.id, is_done=False, problem=f"{problem.strip()}\n  {log} may say more.", is_lost=True
            )
        self._forget(step.id)
        return outcome

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return how far the steps are that have begun, as they wrote it into the folder of the sweep."""
        said = {name: load_progress(self._find_progress(step)) for name, step in self._watched.items()}
        return {name: progress for name, progress in said.items() if progress is not None}

    def cancel(self) -> None:
        """End all jobs of the sweep that run or wait."""
        jobs = [self._entries[name].job for name in self._watched]
        self._queue.cancel([job for job in jobs if job])
        deadline = self._clock() + SIGHT_S
        while self._clock() < deadline:
            states = self._queue.list_states()
            if states is not None and not any(states.get(job) is not None for job in jobs):
                break
            time.sleep(LOCAL_LOOK_S if self._is_local else 1.0)
        for name in list(self._watched):
            self._forget(name)

    def queue_all(self, done: Iterable[str] = ()) -> Mapping[str, str]:
        """Queue every step that is not *done*, each to start after those that it waits for; return their jobs.

        Nobody needs to wait for them: SLURM starts each when its time has come.
        """
        jobs: dict[str, str] = {}
        finished = set(done)
        for step in self._graph.steps:
            if step.id in finished:
                continue
            outcome = self._read_outcome(self._entries[step.id]) if self._is_queued(step) else None
            if outcome is not None and outcome.is_done:
                continue  # SLURM may not know its job any more
            if outcome is not None or not self._is_queued(step):
                after = [jobs[name] for name in step.after if name in jobs]
                self._queue_steps([step], after, whatever=step.tolerates_failures)
            jobs[step.id] = self._entries[step.id].job
        return jobs

    def _save(self) -> None:
        write_whole(self._folder / LEDGER_FILE, _Ledger(jobs=self._entries).model_dump_json(indent=1) + "\n")


def _read_ledger(file: Path) -> _Ledger:
    hint = "Cancel the jobs of the sweep that `squeue --me` shows, and delete the file."
    if not is_file(file):
        return _Ledger()
    try:
        return _Ledger.model_validate_json(read_text(file, hint))
    except ValidationError as error:
        raise BenchError(f"{file} does not say which jobs were queued.", hint) from error


def _group_alike(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Yield *steps* in groups of the same kind and needs, none larger than an array may be."""
    groups: dict[tuple[str, Needs], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.kind, step.needs), []).append(step)
    for group in groups.values():
        yield from (group[begin : begin + MAX_ARRAY] for begin in range(0, len(group), MAX_ARRAY))


def open_queue(graph: Graph, settings: SlurmSettings, most: int | None) -> Queue:
    """Return the queue that *settings* name, whose jobs leave their own logs in the folder of the sweep."""
    folder = Path(graph.folder).absolute() / FOLDER / JOBS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return LocalQueue(folder, settings) if settings.cluster == "local" else SlurmQueue(folder, settings, most)


def count_gpus(settings: Mapping[str, object]) -> int:
    """Return how many GPUs a step may have by default: one if the jobs are to get any."""
    return 1 if settings.get("gres") else 0


@contextmanager
def open_executor(graph: Graph, run_step: RunStep, options: ExecutorOptions) -> Iterator[SlurmExecutor]:
    """Yield an executor on SLURM; what is in the queue stays there when this process ends."""
    settings = SlurmSettings(**options.settings)
    queue = open_queue(graph, settings, options.jobs)
    with _lock_ledger(Path(graph.folder).absolute() / FOLDER):
        try:
            yield SlurmExecutor(graph, run_step, settings, queue, options.jobs)
        finally:
            queue.close()


@contextmanager
def _lock_ledger(folder: Path) -> Iterator[None]:
    """Keep a second command on this machine away from the ledger; nothing is kept where locks do not work."""
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BenchError(
            f"Another command runs the sweep in {folder.parent}.", "Wait until it has ended, or end it: its jobs go on."
        ) from error
    except (OSError, NotImplementedError):  # the folder is shared by something without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
