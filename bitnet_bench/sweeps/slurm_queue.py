"""Put jobs into a SLURM queue through submitit, and ask what has become of them."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.sweeps.cluster_settings import DEFAULT_TIME, SlurmSettings
from bitnet_bench.sweeps.graph import Needs
from bitnet_bench.sweeps.slurm_jobs import StepJob, import_submitit

ASK_S = 60.0
"""Time that SLURM has to answer a question."""
END_S = 10.0
"""Time that a process of submitit's local executor has to end after its step."""
_log = logging.getLogger(__name__)


class Queue(Protocol):
    """Holds jobs until there is room for them, and runs them."""

    def check(self, needs: Needs) -> str:
        """Return why a job of these needs can never run; "" if it can, or nobody knows."""

    def submit(
        self, jobs: Sequence[StepJob], needs: Needs, name: str, after: Sequence[str] = (), *, whatever: bool = False
    ) -> list[str]:
        """Queue *jobs* as one array called *name*, and return their ids in order.

        They start when the jobs *after* have succeeded, or have ended in any way if *whatever*.
        """

    def find(self, name: str) -> list[str]:
        """Return the ids of the jobs of the array *name* that are still in the queue."""

    def list_states(self) -> Mapping[str, str] | None:
        """Return the state of each job of this user that is in the queue; None if the queue does not answer."""

    def explain(self, job: str) -> str:
        """Return the state in which a job left the queue, such as TIMEOUT; "" if that is not known any more."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """End *jobs*."""

    def close(self) -> None:
        """Let go of the jobs, which go on."""


class SlurmQueue:
    """The queue of SLURM, seen through submitit, squeue, scontrol and sacct."""

    def __init__(self, folder: Path, settings: SlurmSettings, most: int | None) -> None:
        submitit = import_submitit()
        if shutil.which("sbatch") is None:
            raise UsageError(
                "There is no `sbatch` here.", "Run the sweep on a login node of the cluster, or with `--on local`."
            )
        self._executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=settings.requeues)
        self._settings, self._most = settings, most

    def check(self, needs: Needs) -> str:
        """Ask SLURM when a job of these needs would start; return what it says if that is never."""
        flags = self._list_flags(needs)
        said = _ask(["sbatch", "--test-only", *flags, "--wrap", "true"])
        if said is None or said.returncode == 0:
            return ""
        return said.stderr.strip().splitlines()[-1].removeprefix("sbatch: ").removeprefix("error: ")

    def _list_flags(self, needs: Needs) -> list[str]:
        chosen = make_parameters(self._settings, needs)
        chosen.pop("time")
        return [
            f"--time={self._settings.time or DEFAULT_TIME}",
            *(
                f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
                for name, value in chosen.items()
                if value is not None
            ),
        ]

    def submit(
        self, jobs: Sequence[StepJob], needs: Needs, name: str, after: Sequence[str] = (), *, whatever: bool = False
    ) -> list[str]:
        """Queue *jobs* with one call of sbatch."""
        settings = self._settings
        more: dict[str, Any] = {"signal": f"USR1@{settings.signal_s}", "requeue": True}
        if after:
            more |= {"dependency": f"{'afterany' if whatever else 'afterok'}:{':'.join(after)}"}
            more |= {"kill-on-invalid-dep": "yes"}
        self._executor.parameters = {}
        self._executor.update_parameters(
            job_name=name,
            array_parallelism=self._most or len(jobs),
            stderr_to_stdout=True,
            # submitit listens to SIGUSR2 if nobody says otherwise
            setup=["export SUBMITIT_PREEMPT_SIGNAL=USR1", *settings.setup],
            additional_parameters=more,
            **{key: value for key, value in make_parameters(settings, needs).items() if value is not None},
        )
        try:
            return [str(job.job_id) for job in self._executor.submit_array(list(jobs))]
        except import_submitit().core.utils.FailedJobError as error:
            said = (
                (str(error).strip().splitlines() or ["no reason"])[-1].removeprefix("sbatch: ").removeprefix("error: ")
            )
            raise BenchError(
                f"SLURM does not take the job: {said}.", "docs/sweeps-slurm.md names the options."
            ) from error

    def find(self, name: str) -> list[str]:
        """Return the ids of the jobs called *name* that are in the queue."""
        said = _ask(["squeue", "--noheader", "--array", "--me", f"--name={name}", "--format=%i"])
        return sorted(said.stdout.split(), key=_read_index) if said is not None and said.returncode == 0 else []

    def list_states(self) -> Mapping[str, str] | None:
        """Return the state of each job that is in the queue."""
        said = _ask(["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r"])
        if said is None or said.returncode:
            return None
        rows = (line.split("|", 2) for line in said.stdout.splitlines() if line.count("|") >= 2)
        return {job.strip(): f"{state} ({reason})" if reason != "None" else state for job, state, reason in rows}

    def explain(self, job: str) -> str:
        """Ask SLURM's memory of the last minutes, then its accounts."""
        said = _ask(["scontrol", "--oneliner", "show", "job", job])
        found = re.search(r"\bJobState=(\w+)", said.stdout) if said is not None else None
        if found is None:
            said = _ask(["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}"])
            found = re.match(r"(\w+)", said.stdout) if said is not None and said.returncode == 0 else None
        return found[1] if found else ""

    def cancel(self, jobs: Sequence[str]) -> None:
        """End *jobs* with scancel."""
        if jobs:
            _ask(["scancel", *jobs])

    def close(self) -> None:
        """Do nothing: the jobs are SLURM's."""


def make_parameters(settings: SlurmSettings, needs: Needs) -> dict[str, Any]:
    """Return what a job of these needs asks for, by the names of submitit, which are those of sbatch."""
    gpus: dict[str, Any] = {}
    if needs.gpus and settings.gres:
        gpus = {"gres": f"{settings.gres}:{needs.gpus}"}
    elif needs.gpus:
        gpus = {"gpus_per_node": needs.gpus}
    return {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": needs.cpus,
        "mem": f"{math.ceil(needs.memory_bytes / 2**20)}M" if needs.memory_bytes else None,
        "exclusive": True if needs.exclusive else None,
        **gpus,
    }


def _read_index(job: str) -> int:
    _, _, index = job.partition("_")
    return int(index) if index.isdigit() else 0


def _ask(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Return what a command of SLURM says; None if it does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("%s does not answer: %s", shlex.join(command), error)
        return None


class LocalQueue:
    """Processes of this machine instead of a queue: submitit's local executor."""

    def __init__(self, folder: Path, settings: SlurmSettings) -> None:
        os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")  # the processes inherit it
        submitit = import_submitit()
        self._executor = submitit.LocalExecutor(folder=folder, max_num_timeout=settings.requeues)
        self._settings = settings
        self._jobs: dict[str, Any] = {}

    def check(self, needs: Needs) -> str:
        """Return "": whatever a step needs is tried."""
        return ""

    def submit(
        self, jobs: Sequence[StepJob], needs: Needs, name: str, after: Sequence[str] = (), *, whatever: bool = False
    ) -> list[str]:
        """Start a process for each of *jobs*."""
        if after:
            raise UsageError("submitit's local executor starts no job after another.", "Leave `--detach` out.")
        self._executor.update_parameters(
            timeout_min=self._settings.minutes,
            signal_delay_s=self._settings.signal_s,
            gpus_per_node=needs.gpus,
            stderr_to_stdout=True,
        )
        started = self._executor.submit_array(list(jobs))
        self._jobs |= {str(job.job_id): job for job in started}
        return [str(job.job_id) for job in started]

    def find(self, name: str) -> list[str]:
        """Return nothing: processes have no names."""
        return []

    def list_states(self) -> Mapping[str, str] | None:
        """Return the processes that this queue, or one before it, has started and that have not ended."""
        return _LiveProcesses(self._jobs)

    def explain(self, job: str) -> str:
        """Return "": nobody keeps it."""
        return ""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Interrupt *jobs*."""
        for job in jobs:
            if job in self._jobs:
                self._jobs[job].cancel()
            else:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(job), signal.SIGINT)

    def close(self) -> None:
        """Wait for processes that have done their work and are about to end."""
        deadline = time.monotonic() + END_S
        for job in self._jobs.values():
            while not job.done() and time.monotonic() < deadline:
                time.sleep(0.02)


class _LiveProcesses(Mapping[str, str]):
    """States of processes by their numbers, of which only those that one asks for are looked at."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own

    def __getitem__(self, job: str) -> str:
        if job in self._own:
            if self._own[job].done():
                raise KeyError(job)
            return "RUNNING"
        import psutil

        try:
            process = psutil.Process(int(job))
            if process.status() != psutil.STATUS_ZOMBIE and "submitit.local._local" in process.cmdline():
                return "RUNNING"
        except (psutil.Error, ValueError):
            pass
        raise KeyError(job)

    def __iter__(self) -> Any:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
