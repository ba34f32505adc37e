"""Watch which other processes compute on this machine from before a measurement until after it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bitnet_bench.machine.gpu_processes import read_gpu_processes
from bitnet_bench.machine.identity import read_machine
from bitnet_bench.measurement.readings import Round
from bitnet_bench.measurement.rounds import RoundRunner
from bitnet_bench.runs.machines import Neighbour, Neighbours

MIN_BUSY_CORES = 0.05
"""Mean number of cores from which on a process is named."""
MAX_NAMED = 5
LOOK_EVERY_S = 5.0
"""Seconds between two looks during the rounds: a look takes the time of tens of milliseconds of a core."""
UNKNOWN_NAME = "a process of another container"


class ProcessTime(NamedTuple):
    """A process with the CPU seconds that it has used; a process id may be used again, hence the time of its start."""

    name: str
    started_s: float
    cpu_s: float


@dataclass(frozen=True)
class Sight:
    """All processes of others at one moment."""

    time_s: float
    load: float | None
    processes: Mapping[int, ProcessTime]
    on_gpu: Mapping[int, int | None]
    """Bytes that processes of others hold on GPUs, by process id."""


def read_sight() -> Sight:
    """Read which processes there are, without this one and those that it started."""
    import psutil

    own = psutil.Process()
    ours = {own.pid, *(child.pid for child in own.children(recursive=True))}
    processes = {}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        with contextlib.suppress(psutil.Error), process.oneshot():
            used = process.cpu_times()
            processes[process.pid] = ProcessTime(process.name(), process.create_time(), used.user + used.system)
    on_gpu = {pid: held for pid, held in read_gpu_processes().items() if pid not in ours}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Sight(time.time(), load, processes, on_gpu)


@dataclass
class NeighbourWatch:
    """Looks at the machine again and again, and remembers how much each other process computed between two looks."""

    read: Callable[[], Sight] = read_sight
    _first: Sight | None = None
    _last: Sight | None = None
    _used: dict[tuple[int, float], tuple[str, float]] = field(default_factory=dict)
    _on_gpu: dict[int, Neighbour] = field(default_factory=dict)

    def look(self) -> None:
        """Note what every process has computed since the last look, and which are on a GPU."""
        sight, before = self.read(), self._last
        for pid, one in sight.processes.items():
            name, used = self._used.get((pid, one.started_s), (one.name, 0.0))
            self._used[pid, one.started_s] = (name, used + max(0.0, one.cpu_s - _find_earlier_s(before, pid, one)))
        for pid, held in sight.on_gpu.items():
            name = sight.processes[pid].name if pid in sight.processes else UNKNOWN_NAME
            most = max(held or 0, (self._on_gpu[pid].gpu_bytes or 0) if pid in self._on_gpu else 0)
            self._on_gpu[pid] = Neighbour(name=name, pid=pid, cores=0.0, gpu_bytes=most or None)
        self._first, self._last = self._first or sight, sight

    def look_sometimes(self) -> None:
        """Look if the last look was some seconds ago."""
        if self._last is None or time.time() - self._last.time_s >= LOOK_EVERY_S:
            self.look()

    def describe_place(self, waited_s: float) -> dict[str, Any]:
        """Return the fields of a cost that say on which machine it was measured, and beside what."""
        return {"machine": read_machine(), "neighbours": self.summarize(waited_s)}

    def summarize(self, waited_s: float = 0.0) -> Neighbours:
        """Return what was seen between the first look and the last."""
        first, last = self._first, self._last
        assert first is not None, "nothing was looked at"
        assert last is not None
        lasted_s = max(last.time_s - first.time_s, 1e-9)
        cores = {key: used / lasted_s for key, (_, used) in self._used.items()}
        by_pid = {pid: share for (pid, _), share in cores.items()}
        busy = sorted((key for key, share in cores.items() if share >= MIN_BUSY_CORES), key=lambda key: -cores[key])
        return Neighbours(
            load_before=first.load,
            load_after=last.load,
            busy=tuple(
                Neighbour(name=self._used[key][0], pid=key[0], cores=round(cores[key], 3)) for key in busy[:MAX_NAMED]
            ),
            on_gpu=tuple(
                one.model_copy(update={"cores": round(by_pid.get(pid, 0.0), 3)}) for pid, one in self._on_gpu.items()
            ),
            waited_s=round(waited_s, 1),
        )


def _find_earlier_s(before: Sight | None, pid: int, one: ProcessTime) -> float:
    """Return the CPU seconds that a process had used at the look *before*: all of them at the first look."""
    if before is None:
        return one.cpu_s
    known = before.processes.get(pid)
    if known is not None and known.started_s == one.started_s:
        return known.cpu_s
    return 0.0 if one.started_s >= before.time_s else one.cpu_s


@dataclass
class WatchedRunner:
    """A candidate after whose rounds the machine is looked at, while nothing of ours computes; a `RoundRunner`."""

    runner: RoundRunner
    watch: NeighbourWatch

    def __post_init__(self) -> None:
        self.name = self.runner.name

    def probe(self, batch: int, within_s: float) -> float:
        """Return how many seconds one run will take."""
        return self.runner.probe(batch, within_s)

    def warm_up(self, batch: int, within_s: float) -> Round:
        """Run the warm-up round."""
        return self.runner.warm_up(batch, within_s)

    def round(self, batch: int, within_s: float) -> Round:
        """Run one round, and look at the machine after it."""
        found = self.runner.round(batch, within_s)
        self.watch.look_sometimes()
        return found
