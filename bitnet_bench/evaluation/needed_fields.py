"""Find the fields of a row that a task reads, so that all that are missing are named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes

from bitnet_bench.evaluation.task_hooks import TaskHooks

READ_BY = ("doc_to_text", "doc_to_target", "doc_to_choice")
"""Settings of a task that say how a row is asked and answered."""
OPTIONAL_TESTS, OPTIONAL_FILTERS = ("defined", "undefined"), ("default", "d")


def find_needed_fields(
    config: Mapping[str, Any], hooks: TaskHooks | None = None, row: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the names of the fields that a task reads of every row, in the order of the prompt.

    Templates are parsed, and functions are tried on *row*: what they look up and it lacks is noted. Those of a task
    that makes its rows anew (`process_docs`) are unknown: [].
    """
    if "process_docs" in config:
        return []
    found: list[str] = []
    for key in READ_BY:
        found += _find_in_setting(config.get(key), row or {})
    for hook in (hooks.references, hooks.labels, hooks.value) if hooks else ():
        found += _find_in_function(hook, row or {})
    return list(dict.fromkeys(found))


def _find_in_setting(setting: Any, row: Mapping[str, Any]) -> list[str]:
    if callable(setting):
        return _find_in_function(setting, row)
    if not isinstance(setting, str):
        return []
    if "{{" in setting or "{%" in setting:
        return _find_in_template(setting)
    return [setting] if setting.isidentifier() else []  # lm-eval: the name of a field, else a text for every row


def _find_in_template(template: str) -> list[str]:
    environment = Environment(autoescape=False)
    try:
        tree = environment.parse(template)
    except TemplateError:
        return []
    names = meta.find_undeclared_variables(tree) - set(_find_optional(tree))
    return sorted(names, key=lambda name: (template.find(name), name))


def _find_optional(tree: nodes.Template) -> Iterator[str]:
    """Yield the names that a template can do without: it asks for them, or reads them under a condition only."""
    chosen = {id(name) for branch in _list_branches(tree) for name in _list_names(branch)}
    always = {name.name for name in tree.find_all(nodes.Name) if id(name) not in chosen}
    yield from {name.name for name in tree.find_all(nodes.Name)} - always
    for test in tree.find_all(nodes.Test):
        if test.name in OPTIONAL_TESTS and isinstance(test.node, nodes.Name):
            yield test.node.name
    for used in tree.find_all(nodes.Filter):
        if used.name in OPTIONAL_FILTERS and isinstance(used.node, nodes.Name):
            yield used.node.name


def _list_branches(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Yield what a template computes under a condition only."""
    for choice in tree.find_all(nodes.CondExpr):
        yield from (branch for branch in (choice.expr1, choice.expr2) if branch is not None)
    for block in tree.find_all(nodes.If):
        yield from (*block.body, *block.else_)


def _list_names(branch: nodes.Node) -> Iterator[nodes.Name]:
    """Yield the names in *branch*, itself included."""
    if isinstance(branch, nodes.Name):
        yield branch
    yield from branch.find_all(nodes.Name)


class _AskedRow(dict[str, Any]):
    """A row that notes which fields are looked up, and has an empty text where one is missing."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return super().__getitem__(name) if name in self else ""


def _find_in_function(function: Callable[[Any], Any], row: Mapping[str, Any]) -> list[str]:
    asked = _AskedRow(row)
    with suppress(Exception):  # a task's code may raise anything for an empty text
        function(asked)
    return asked.asked
