"""Read the definitions of suites, without importing lm_eval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from bitnet_bench.errors import BenchError, UsageError, did_you_mean, explain_fault
from bitnet_bench.files import is_file
from bitnet_bench.runs.choices import Answer
from bitnet_bench.runs.value import Value
from bitnet_bench.yaml_files import read_yaml

SUITE_FILE = "suite.yaml"
FileName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\\\x00-\x1f]+$")]
"""A name that can be part of a file's."""
CONFIG = "{config}"
"""Part of a file's name that stands for each of a task's configurations."""


class Task(Value):
    """One task of a suite: its metrics, the first of which is primary, and the source of its rows."""

    name: FileName
    kind: Literal["scored", "open"] = "scored"
    """scored: lm-eval asks, and metrics score. open: written answers to one or more turns, which people or a judge
    score."""
    metrics: tuple[str, ...]
    """[] for an open task."""
    chance: float
    """Primary metric of a uniformly random answer, 0..100; 0 for a task that generates freely."""
    mixed_choices: bool = False
    """True if rows have different numbers of choices: the chance of a run is then computed from its rows."""
    answer: Answer | None = None
    """How the set is asked unless the user says otherwise; None if there is one way, which its YAML says."""
    otherwise: tuple[str, ...] = ()
    """Metrics of the other way to answer, of a task that says its `answer`."""
    extracts: Literal["number", "instructions"] | None = None
    """What is read out of a generated text: a number, or which instructions it follows. A choice needs no mention: it
    is read out where a task that generates has choices."""
    local: str | None = None
    """Folder of the rows below the data directory; None if they can only come from the hub or from the user."""
    files: Mapping[str, str] = Field(default_factory=dict)
    """Local file of `test`, and of `train` if there is one; with {config} in it, one file for each configuration."""
    configs: tuple[str, ...] = ()
    """Configurations of the hub data set that make up the rows; a row says its own in the field `config`."""
    own_rows: bool = False
    """True if the only rows of the task are those that the user names."""
    module: str | None = None
    """Python file next to the task's YAML that defines gold answers and reads outputs (docs/suites/README.md)."""
    embedded: str | None = None
    """Folder of the rows inside the suite, if this task brings its own and the others do not."""
    hub: str | None = None
    """Hub data set, if it is not the suite's."""
    licence: str | None = None
    citation: str | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "open" and self.metrics:
            raise ValueError("an open task has no `metrics`: people or a judge score its answers")
        if self.kind == "scored" and not self.metrics:
            raise ValueError("`metrics` needs one metric at least")
        return self

    @property
    def definitions(self) -> dict[Answer | None, str]:
        """Names of the YAML files of the task by the way to answer, its own way first."""
        if self.answer is None:
            return {None: f"{self.name}.yaml"}
        ways: tuple[Answer, ...] = ("likelihood", "generate")
        return {way: f"{self.name}_{way}.yaml" for way in sorted(ways, key=lambda way: way != self.answer)}

    def answered_by(self, way: Answer | None) -> Task:
        """Return the task as it is answered by *way*; itself for None, and if it has only one way."""
        if way in (None, self.answer) or self.answer is None:
            return self
        return self.model_copy(update={"answer": way, "metrics": self.otherwise, "otherwise": self.metrics})

    def list_files(self, file: Path) -> dict[str, Path]:
        """Return what *file* of a split stands for, by configuration: files of that name, or itself under ""."""
        if not self.configs or CONFIG not in str(file):
            return {"": file}
        return {config: Path(str(file).replace(CONFIG, config)) for config in self.configs}


class Suite(Value):
    """A folder with suite.yaml and an lm-eval YAML for each task."""

    name: FileName
    version: str
    title: str
    licence: str
    citation: str
    hub: str | None = None
    embedded: str | None = None
    """Folder of the rows inside the suite itself; such a suite needs no data directory."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Alternative prompts by name: each the name of lm-eval's own task, with `{task}` in it."""
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
        """Return the file of a split; None if rows can only come from the hub, or if there is no such split."""
        embedded = task.embedded or self.embedded
        base = self.folder / embedded if embedded else data_dir
        if base is None or task.local is None or split not in task.files:
            return None
        return base / task.local / task.files[split]

    def list_runnable_tasks(self, data_dir: Path | None) -> tuple[Task, ...]:
        """Return the tasks that a run of the whole suite includes: those that have rows here.

        With a data directory these are all tasks with local rows; without one, all tasks with rows on the hub.
        """
        local = self.embedded is not None or data_dir is not None
        return tuple(
            t for t in self.tasks if not t.own_rows and (t.local if local or t.embedded else self.find_hub_id(t))
        )


def find_suites(folders: list[Path]) -> dict[str, Suite]:
    """Return the suites below *folders* by name; BenchError names a suite.yaml that is invalid."""
    suites: dict[str, Suite] = {}
    for file in sorted(file for folder in folders for file in folder.glob(f"*/{SUITE_FILE}")):
        suite = read_suite(file)
        if suite.name in suites:
            raise BenchError(f"Two suites are called {suite.name}.", f"{file} and {suites[suite.name].folder}.")
        suites[suite.name] = suite
    return suites


def read_suite(file: Path) -> Suite:
    """Return the suite of a suite.yaml; BenchError says what is wrong with it."""
    found = read_yaml(file)
    if not isinstance(found.value, dict):
        raise BenchError(f"{file} is not a suite: it holds no keys.", f"There are: {', '.join(Suite.model_fields)}.")
    if "folder" in found.value:
        raise BenchError(f"{file} is not a suite: `folder` is not said in it.", "The suite is the folder it stands in.")
    try:
        return Suite.model_validate({**found.value, "folder": file.parent.resolve()})
    except ValidationError as error:
        first = error.errors()[0]
        place = first["loc"]
        line = next(found.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in found.lines)
        raise BenchError(
            f"Line {line} of {file}: {explain_fault(first)}.", "docs/suites/README.md says what a suite holds."
        ) from error


def choose_suite(suites: dict[str, Suite], name: str) -> Suite:
    """Return the suite called *name*, or in the folder *name*; UsageError names the nearest."""
    if name not in suites and is_file(Path(name) / SUITE_FILE):
        return read_suite(Path(name) / SUITE_FILE)
    if name not in suites:
        raise UsageError(f"There is no suite {name!r}.", suggest_name(name, list(suites)))
    return suites[name]


def suggest_name(name: str, names: list[str]) -> str:
    """Return a hint for a wrong *name*: the nearest of *names*, and what there is."""
    return f"{did_you_mean(name, names)} There are: {', '.join(names)}.".lstrip()
