"""Find the functions in a task's Python file that define gold answers and read outputs; each has a default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bitnet_bench.errors import BenchError, did_you_mean

MIN_SIMILARITY = 0.75
"""Similarity from which a function counts as a misspelt hook; below it, it is a function of the file's own."""
HOOKS = ("groups", "labels", "options", "parse", "read", "references", "value", "VALUES")
Row = Any
"""Row of the task's data set, a dict."""


@dataclass(frozen=True)
class TaskHooks:
    """The optional functions of a task's Python file; the defaults are for a task that has none."""

    labels: Callable[[Row], Sequence[str]] = lambda _row: ()
    """Function that returns the gold labels of a row."""
    references: Callable[[Row], Sequence[str] | None] = lambda _row: None
    """Function that returns the gold texts of a row; None stands for the targets of its YAML."""
    value: Callable[[Row], float | None] = lambda _row: None
    """Function that returns the gold number of a row."""
    read: Callable[[str], str] = lambda output: output
    """Function that returns an output in the form that is scored."""
    parse: Callable[[str, Row], Sequence[str] | None] | None = None
    """Function that returns the labels in an output, None if it is malformed; without it the task has no grammar."""
    groups: Callable[[Row], Mapping[str, str]] = lambda _row: {}
    """Function that returns what a row belongs to, such as its category: parts of a score are of these."""
    options: Callable[[Row], Sequence[str]] = lambda _row: ()
    """Function that returns the text of each choice, where the choices are letters: a text may repeat it."""
    values: tuple[float, ...] = ()
    """Number that each choice stands for."""


def find_hooks(module: ModuleType | None) -> TaskHooks:
    """Return the hooks in *module*, the Python file of a task; BenchError if one seems to be misspelt."""
    if module is None:
        return TaskHooks()
    for name, member in vars(module).items():
        own = not isinstance(member, ModuleType) and getattr(member, "__module__", module.__name__) == module.__name__
        if name.startswith("_") or name in HOOKS or not own:
            continue
        if meant := did_you_mean(name, HOOKS, cutoff=MIN_SIMILARITY):
            raise BenchError(
                f"{module.__file__} has {name!r}, which nothing looks for.",
                f"{meant} If it is the file's own, start its name with an underscore.",
            )
    found = {name.lower(): member for name, member in vars(module).items() if name in HOOKS}
    return TaskHooks(**found)
