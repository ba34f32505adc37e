"""Look up what the recipes of a sweep have in common once: suites, tasks and backends."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench import plugins
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.suites import Suite, Task

Tasks = list[tuple[Suite, Task]]


class Known:
    """What was looked up already, for one plan: files may change before the next one."""

    def __init__(self, data_dir: Path | None) -> None:
        self.data_dir = data_dir
        self._tasks: dict[tuple[tuple[str, ...], tuple[str, ...]], Tasks] = {}
        self._backends: set[str] = set()

    def select_tasks(self, suites: tuple[str, ...], tasks: tuple[str, ...]) -> Tasks:
        """Return the tasks of *suites* that have rows here, or those named in *tasks*."""
        asked = (suites, tasks)
        if asked not in self._tasks:
            self._tasks[asked] = select_tasks(suites, tasks, self.data_dir)
        return self._tasks[asked]

    def check_backend(self, name: str) -> None:
        """Raise BenchError if there is no backend *name*, or if it lacks something."""
        if name not in self._backends:
            plugins.load_plugin("backends", name)
            self._backends.add(name)
