"""Read what suites there are, without importing lm_eval."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.records import Value


class Task(Value):
    """One task of a suite: its metrics, the first of which is primary, and where its rows are."""

    name: str
    metrics: tuple[str, ...] = Field(min_length=1)
    chance: float
    """The primary metric of a uniformly random answer, 0..100."""
    local: str
    """Folder of the rows below the data directory."""
    splits: dict[str, str]
    """What `train` and `test` are called in the local folder."""


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
    tasks: tuple[Task, ...]
    folder: Path

    def task(self, name: str) -> Task:
        """Return the task called *name*; UsageError names the nearest."""
        names = [task.name for task in self.tasks]
        if name not in names:
            raise UsageError(f"Suite {self.name} has no task {name!r}.", _nearest(name, names))
        return self.tasks[names.index(name)]

    def rows_file(self, task: Task, split: str, data_dir: Path | None) -> Path | None:
        """Return the JSONL file of a split, or None where rows can only come from the hub."""
        base = self.folder / self.embedded if self.embedded else data_dir
        return base / task.local / f"{task.splits[split]}.jsonl" if base else None


def find_suites(folders: list[Path]) -> dict[str, Suite]:
    """Return the suites below *folders* by name; BenchError names a suite.yaml that is wrong."""
    suites: dict[str, Suite] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*/suite.yaml")):
        try:
            suite = Suite(folder=file.parent, **yaml.safe_load(file.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError, TypeError) as error:
            raise BenchError(f"{file} is not a valid suite.", str(error)) from error
        if suite.name in suites:
            raise BenchError(f"Two suites are called {suite.name}.", f"{file} and {suites[suite.name].folder}.")
        suites[suite.name] = suite
    return suites


def choose(suites: dict[str, Suite], name: str) -> Suite:
    """Return the suite called *name*; UsageError names the nearest."""
    if name not in suites:
        raise UsageError(f"There is no suite {name!r}.", _nearest(name, list(suites)))
    return suites[name]


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}There are: {', '.join(names)}."
