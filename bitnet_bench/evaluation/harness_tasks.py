"""Run lm-eval's own tasks unchanged, by name: `lm-eval:haerae`, `lm-eval:kmmlu_history`, ..."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.runs.records import Score

HARNESS_PREFIX = "lm-eval"
HARNESS_METRIC = "lm-eval"
"""Metric of a task that lm-eval scores itself."""


def find_harness_suite(name: str) -> Suite:
    """Return lm-eval's task, group or tag *name* as a suite of its single tasks; UsageError names the nearest."""
    index = _load_task_index(name)
    if name not in index:
        meant = did_you_mean(name, list(index), most=3)
        raise UsageError(f"lm-eval ships no task {name!r}.", f"{meant} `lm-eval ls tasks` lists them.".lstrip())
    leaves = _list_leaf_tasks(name, index)
    return Suite(
        name=HARNESS_PREFIX,
        version=version("lm_eval"),
        title=f"lm-eval's own {name}",
        licence="see the task's README in lm-eval",
        citation="see the task's README in lm-eval",
        tasks=tuple(
            Task(name=leaf, metrics=(HARNESS_METRIC,), chance=0.0, hub=_read_hub_id(index[leaf])) for leaf in leaves
        ),
        folder=find_harness_folder(),
    )


def find_harness_yaml(name: str) -> Path:
    """Return the YAML of one task that lm-eval ships; BenchError if there is none."""
    index = _load_task_index(name)
    if name not in index or index[name].yaml_path is None:
        raise BenchError(f"lm-eval ships no task {name}.", "Install the version in constraints.txt.")
    return Path(index[name].yaml_path)


def find_harness_folder() -> Path:
    """Return the folder of lm-eval's tasks, without importing lm_eval."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise BenchError("lm-eval is not installed.", "Run `pip install bitnet-bench` again.")
    return Path(next(iter(spec.submodule_search_locations)), "tasks")


def convert_harness_scores(name: str, results: dict[str, Any], n: int) -> tuple[Score, ...]:
    """Return lm-eval's scores of a task (`results[task_name]` of its evaluator), times 100; the first is primary.

    A standard error that lm-eval does not compute ("N/A") is None.
    """
    scores: list[Score] = []
    for key, value in results.items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = results.get(f"{metric}_stderr,{rule}")
        signature = f"{metric}|lm-eval:{version('lm_eval')}|filter:{rule}"
        error = 100.0 * stderr if isinstance(stderr, int | float) else None
        first = not scores
        scores.append(
            Score(task=name, metric=metric, value=100.0 * value, stderr=error, n=n, signature=signature, primary=first)
        )
    return tuple(scores)


@cache
def _load_task_index(name: str) -> Any:
    """Return lm-eval's index of the folder that *name* is in, or of every folder (9 s) if none has a similar name."""
    from lm_eval.tasks import TaskManager

    likely = [folder for folder in find_harness_folder().iterdir() if name.startswith(folder.name.replace("-", "_"))]
    for folder in sorted(likely, key=lambda f: -len(f.name)):
        index = TaskManager(include_path=str(folder), include_defaults=False).task_index
        if name in index:
            return index
    return TaskManager().task_index


def _list_leaf_tasks(name: str, index: Any) -> list[str]:
    """Return the single tasks of a task, group or tag, in order."""
    if name not in index:
        return []
    members = index[name].cfg.get("task") if index[name].cfg else None
    if isinstance(members, list):
        names = [member if isinstance(member, str) else member.get("task", "") for member in members]
        return list(dict.fromkeys(leaf for member in names for leaf in _list_leaf_tasks(member, index)))
    tagged = [other for other, entry in index.items() if name in (entry.tags or ())]
    return tagged or [name]


def _read_hub_id(entry: Any) -> str | None:
    from lm_eval.tasks._yaml_loader import load_yaml

    hub: str | None = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_path") if entry.yaml_path else None
    return hub
