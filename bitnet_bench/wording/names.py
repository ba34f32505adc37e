"""Name suites, tasks, metrics, precisions and formats as papers do, instead of by the keys of files."""

from __future__ import annotations

from functools import cache

from bitnet_bench.wording import Text, plain_text, read_wording


def format_task_name(task: str) -> Text:
    """Return the name of a task `SUITE:TASK`; one that is not in `names.yaml` keeps its own."""
    suite, _, name = task.partition(":")
    named = _load_names("tasks")
    if task in named:
        return named[task]
    if name not in named or suite not in _load_names("suites"):
        return plain_text(task)
    return _load_names("suites")[suite] + plain_text(" ") + named[name]


def format_suite(suite: str) -> Text:
    """Return the name of a suite; one that is not in `names.yaml` keeps its own."""
    return _lookup("suites", suite)


def format_metric(metric: str) -> Text:
    """Return the name of a score's metric; one that is not in `names.yaml` keeps its own."""
    kind, _, argument = metric.partition(":")
    number, _, base = argument.partition(":")
    if kind == "pass_at" and base:
        return plain_text(f"pass@{number}: ") + format_metric(base)
    if kind == "majority_vote" and argument:
        return _lookup("metrics", kind) + plain_text(": ") + format_metric(argument)
    return _lookup("metrics", metric)


def format_group_kind(kind: str) -> Text:
    """Return what the rows of a task belong to, such as a category; one that is not in `names.yaml` keeps its key."""
    return _lookup("groups", kind)


def format_precision(precision: str) -> Text:
    """Return the name of a precision."""
    return _load_names("precisions").get(precision, plain_text(precision.upper()))


def format_checkpoint_format(name: str) -> Text:
    """Return the name of a checkpoint format."""
    return _lookup("formats", name)


def format_method(name: str) -> Text:
    """Return the name of a training method."""
    return _lookup("methods", name)


def _lookup(kind: str, key: str) -> Text:
    return _load_names(kind).get(key, plain_text(key))


@cache
def _load_names(kind: str) -> dict[str, Text]:
    """Return the names of *kind*; a name without languages is the same in both."""
    named = read_wording("names.yaml")[kind]
    return {key: Text(**name) if isinstance(name, dict) else plain_text(name) for key, name in named.items()}
