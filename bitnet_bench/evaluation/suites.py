"""Read what suites there are, without importing lm_eval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.runs.value import Value

SUITE_FILE = "suite.yaml"


class Task(Value):
    """One task of a suite: its metrics, the first of which is primary, and where its rows are."""

    name: str
    metrics: tuple[str, ...] = Field(min_length=1)
    chance: float
    """The primary metric of a uniformly random answer, 0..100; 0 for a task that generates."""
    local: str | None = None
    """Folder of the rows below the data directory; None where they can only come from the hub or from the user."""
    files: Mapping[str, str] = Field(default_factory=dict)
    """The local file of `test`, and of `train` where there is one."""
    own_rows: bool = False
    """Whether the task has no rows but those that the user names."""
    module: str | None = None
    """A Python file beside the task's YAML that says what gold answers and outputs mean (docs/suites/README.md)."""
    hub: str | None = None
    """The hub data set, where it is not the suite's."""
    licence: str | None = None
    citation: str | None = None


class Suite(Value):
    """A folder with suite.yaml and an lm-eval YAML for each task."""

    name: str
    version: str
    title: str
    licence: str
    citation: str
    hub: str | None = None
    embedded: str | None = None
    """Folder of the rows inside the suite itself: such a suite needs no data directory."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Other prompts than our own, by name: the name of lm-eval's own task, with `{task}` in it."""
    tasks: tuple[Task, ...]
    folder: Path

    def task(self, name: str) -> Task:
        """Return the task called *name*; UsageError names the nearest."""
        names = [task.name for task in self.tasks]
        if name not in names:
            raise UsageError(f"Suite {self.name} has no task {name!r}.", suggest_name(name, names))
        return self.tasks[names.index(name)]

    def find_hub_id(self, task: Task) -> str | None:
        """Return the hub id of a task's rows."""
        return task.hub or self.hub

    def find_licence(self, task: Task) -> str:
        """Return the licence of a task's rows."""
        return task.licence or self.licence

    def find_rows_file(self, task: Task, split: str, data_dir: Path | None) -> Path | None:
        """Return the file of a split, or None where rows can only come from the hub, or there is no such split."""
        base = self.folder / self.embedded if self.embedded else data_dir
        if base is None or task.local is None or split not in task.files:
            return None
        return base / task.local / task.files[split]

    def list_runnable_tasks(self, data_dir: Path | None) -> tuple[Task, ...]:
        """Return the tasks that a run of the whole suite takes: those that have rows here.

        With a data directory that is every task with local rows; without one, every task with rows on the hub.
        """
        local = self.embedded is not None or data_dir is not None
        return tuple(t for t in self.tasks if not t.own_rows and (t.local if local else self.find_hub_id(t)))


def find_suites(folders: list[Path]) -> dict[str, Suite]:
    """Return the suites below *folders* by name; BenchError names a suite.yaml that is wrong."""
    suites: dict[str, Suite] = {}
    for file in sorted(file for folder in folders for file in folder.glob(f"*/{SUITE_FILE}")):
        suite = read_suite(file)
        if suite.name in suites:
            raise BenchError(f"Two suites are called {suite.name}.", f"{file} and {suites[suite.name].folder}.")
        suites[suite.name] = suite
    return suites


def read_suite(file: Path) -> Suite:
    """Return the suite of a suite.yaml; BenchError says what is wrong with it."""
    try:
        return Suite(folder=file.parent.resolve(), **yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise BenchError(f"{file} is not a valid suite.", str(error)) from error


def choose_suite(suites: dict[str, Suite], name: str) -> Suite:
    """Return the suite called *name*, or in the folder *name*; UsageError names the nearest."""
    if name not in suites and (Path(name) / SUITE_FILE).is_file():
        return read_suite(Path(name) / SUITE_FILE)
    if name not in suites:
        raise UsageError(f"There is no suite {name!r}.", suggest_name(name, list(suites)))
    return suites[name]


def suggest_name(name: str, names: list[str]) -> str:
    """Return what a wrong *name* may have meant, and what there is."""
    return f"{did_you_mean(name, names)} There are: {', '.join(names)}.".lstrip()
