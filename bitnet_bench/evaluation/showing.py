"""Show a task before it is run: the fields of its rows, one of them, how it is asked, and how answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import choose_suites, find_data_directory, select_tasks
from bitnet_bench.evaluation.suites import SUITE_FILE, Suite, Task
from bitnet_bench.files import is_file
from bitnet_bench.runs.value import Value

KINDS: dict[type, str] = {bool: "true or false", int: "number", float: "number", str: "text", dict: "object"}


class ShownTask(Value):
    """What there is to know of a task before it is run."""

    task: str
    title: str
    version: str
    metrics: tuple[str, ...]
    """The first is primary."""
    chance: float
    answers: tuple[str, ...] = ()
    """Ways to answer its questions, the default first; () if there is one."""
    licence: str
    citation: str
    source: str
    """Where the rows are from: a file, or the hub id, with its revision if it was asked."""
    needed: tuple[str, ...]
    """Fields that rows of your own need."""
    fields: dict[str, str]
    """Kind of each field of the example, those that the task reads first; empty kinds without an example."""
    rows: int | None = None
    training_rows: int | None = None
    """None if there are none."""
    example: dict[str, Any] | None = None
    prompt: str | None = None
    choices: tuple[str, ...] = ()
    delimiter: str = ""
    """Text between the prompt and an answer."""
    answer: str | None = None
    references: tuple[str, ...] = ()
    """All right answers, where there are several."""
    unavailable: str = ""
    """Why there is no example; empty if there is one."""


def list_shown_tasks(name: str, data_dir: Path | None = None) -> list[ShownTask]:
    """Return the task *name*, SUITE:TASK, or every task of the suite *name*; UsageError names the nearest.

    A task of lm-eval is `lm-eval:NAME`, which may be a group.
    """
    from bitnet_bench.evaluation.harness_tasks import HARNESS_PREFIX

    suite, _, task = name.rpartition(":")
    if suite == HARNESS_PREFIX or not suite or is_file(Path(name) / SUITE_FILE):
        chosen = [(owner, one) for owner in choose_suites([name]) for one in owner.tasks]
    else:
        chosen = select_tasks([suite], [task])
    directory = find_data_directory(data_dir)
    return [_show_task(owner, one, directory) for owner, one in chosen]


def _show_task(suite: Suite, task: Task, data_dir: Path | None) -> ShownTask:
    from bitnet_bench.evaluation.task_run import ask_row
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task, list_needed_fields

    known: dict[str, Any] = {
        "task": f"{suite.name}:{task.name}",
        "title": suite.title,
        "version": suite.version,
        "metrics": task.metrics,
        "chance": task.chance,
        "answers": tuple(way for way in task.definitions if way),
        "licence": suite.find_licence(task),
        "citation": task.citation or suite.citation,
        "needed": tuple(list_needed_fields(suite, task)),
    }
    try:
        built = build_task(suite, task, TaskSettings(data_dir))
        example, asked = ask_row(built)
    except BenchError as error:
        kinds = dict.fromkeys(known["needed"], "")
        return ShownTask(**known, source=suite.find_hub_id(task) or "", fields=kinds, unavailable=str(error))
    known["needed"] = known["needed"] or tuple(example)
    order = [*(name for name in known["needed"] if name in example), *example]
    return ShownTask(
        **known,
        source=built.source,
        rows=len(built.lm_task.eval_docs),
        training_rows=len(built.lm_task.training_docs()) if built.lm_task.has_training_docs() else None,
        fields={name: _name_kind(example[name]) for name in dict.fromkeys(order)},
        example=example,
        **vars(asked),
    )


def _name_kind(value: Any) -> str:
    """Return the kind of a value, with that of what a list or an object holds."""
    if isinstance(value, list):
        return f"list of {_name_kind(value[0])}" if value else "list"
    if isinstance(value, Mapping):
        return f"object of {', '.join(value)}"
    return KINDS.get(type(value), "null" if value is None else type(value).__name__)
