"""Select suites and tasks by name, and find where their rows are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench import plugins
from bitnet_bench.data.hub_rows import pin_source
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import is_file

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite, Task

DATA_DIR_VARIABLE = "BITNET_BENCH_DATA"
_log = logging.getLogger(__name__)


def find_data_directory(given: Path | None) -> Path | None:
    """Return the folder of local rows: *given*, else $BITNET_BENCH_DATA, else None (the hub)."""
    chosen = given or (Path(os.environ[DATA_DIR_VARIABLE]) if os.environ.get(DATA_DIR_VARIABLE) else None)
    if chosen is not None and not chosen.is_dir():
        raise BenchError(f"There is no data folder {chosen}.", f"Check `data_dir` or {DATA_DIR_VARIABLE}.")
    return chosen


def pin_own_rows(rows: Mapping[str, str], tasks: Sequence[str]) -> dict[str, Path]:
    """Return the user's own rows by task, those of the hub at their commit; UsageError if one is not of *tasks*."""
    from bitnet_bench.evaluation.suites import suggest_name

    unused = sorted(rows.keys() - set(tasks))
    if unused:
        raise UsageError(f"`rows` names {unused[0]}, which is not among the tasks.", suggest_name(unused[0], [*tasks]))
    return {task: Path(pin_source(file)) for task, file in rows.items()}


def load_suites() -> dict[str, Suite]:
    """Return every installed suite by name."""
    from bitnet_bench.evaluation.suites import find_suites

    return find_suites(plugins.find_task_folders())


def list_tasks(data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return a description of every task, without running it; rows are counted if they are local."""
    from bitnet_bench.evaluation.local_rows import count_rows

    directory = find_data_directory(data_dir)
    listed = []
    for suite in load_suites().values():
        for task in suite.tasks:
            file = suite.find_rows_file(task, "test", directory)
            files = task.list_files(file).values() if file else ()
            local = bool(files) and all(map(is_file, files))
            below = f"{task.local}/{task.files.get('test')}"
            listed.append(
                {
                    "suite": suite.name,
                    "version": suite.version,
                    "task": task.name,
                    "rows": sum(map(count_rows, files)) if local else None,
                    "from": "embedded"
                    if suite.embedded or task.embedded
                    else below
                    if local
                    else _describe_origin(suite, task),
                    "metrics": list(task.metrics),
                    "primary_metric": task.metrics[0] if task.metrics else None,
                    "chance": task.chance,
                    "prompts": ["default", *suite.prompts],
                    "licence": suite.find_licence(task),
                    "citation": task.citation or suite.citation,
                }
            )
    return listed


def _describe_origin(suite: Suite, task: Task) -> str:
    if task.own_rows:
        return f"`rows={suite.name}:{task.name}=FILE`"
    return suite.find_hub_id(task) or "`data_dir`"


def choose_suites(names: Sequence[str]) -> list[Suite]:
    """Return the suites called *names*, or in the folders *names*; UsageError names the nearest."""
    from bitnet_bench.evaluation.harness_tasks import HARNESS_PREFIX, find_harness_suite
    from bitnet_bench.evaluation.suites import choose_suite

    found, prefix = load_suites(), f"{HARNESS_PREFIX}:"
    return [
        find_harness_suite(n.removeprefix(prefix)) if n.startswith(prefix) else choose_suite(found, n) for n in names
    ]


def select_tasks(
    names: Sequence[str], tasks: Sequence[str] = (), data_dir: Path | None = None
) -> list[tuple[Suite, Task]]:
    """Return the tasks of the suites *names* that have rows here, or only those named in *tasks*."""
    from bitnet_bench.evaluation.harness_tasks import HARNESS_PREFIX
    from bitnet_bench.evaluation.suites import suggest_name

    chosen = choose_suites(names)
    if not tasks:
        return [
            (s, task)
            for s in chosen
            for task in (s.tasks if s.name == HARNESS_PREFIX else _list_tasks_with_rows(s, data_dir))
        ]
    selected = []
    for name in tasks:
        owners = [suite for suite in chosen if name in {task.name for task in suite.tasks}]
        if not owners:
            there = [task.name for suite in chosen for task in suite.tasks]
            raise UsageError(f"No task {name!r} in {', '.join(names)}.", suggest_name(name, there))
        selected += [(suite, suite.task(name)) for suite in owners]
    return selected


def _list_tasks_with_rows(suite: Suite, data_dir: Path | None) -> tuple[Task, ...]:
    """Return the tasks that a run of the whole suite includes; of a suite of several data sets, those that are here."""
    tasks = suite.list_runnable_tasks(data_dir)
    if suite.hub or suite.embedded or data_dir is None:
        return tasks
    files = [suite.find_rows_file(task, "test", data_dir) for task in tasks]
    found = [
        file is not None and all(map(is_file, task.list_files(file).values()))
        for task, file in zip(tasks, files, strict=True)
    ]
    here = tuple(task for task, is_here in zip(tasks, found, strict=True) if is_here)
    missing = [task.name for task, is_here in zip(tasks, found, strict=True) if not is_here]
    if here and missing:
        _log.warning("%s: there are no rows of %s below %s.", suite.name, ", ".join(missing), data_dir)
    return here or tasks


def trust_suite_names(names: Sequence[str]) -> None:
    """Remember that the code of the suites *names* may run until one of their files changes."""
    from bitnet_bench.evaluation.suites import SUITE_FILE
    from bitnet_bench.evaluation.trust import trust_suites

    trust_suites(choose_suites([name for name in names if is_file(Path(name) / SUITE_FILE)]))


def list_prompts(suite: str, count: int, data_dir: Path | None = None) -> tuple[str, ...]:
    """Return *count* prompts of the tasks of *suite*, the longest first, so that none limits the others."""
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    directory = find_data_directory(data_dir)
    found: list[str] = []
    for owner, task in select_tasks([suite], data_dir=directory):
        built = build_task(owner, task, TaskSettings(directory))
        found += [built.lm_task.doc_to_text(doc) for doc in built.lm_task.test_docs()]
    return tuple(sorted(found, key=len, reverse=True)[:count])
