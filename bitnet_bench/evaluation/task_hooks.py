"""What the Python file of a task says of gold answers and outputs; whatever it leaves out has a default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bitnet_bench.errors import BenchError, did_you_mean

MIN_SIMILARITY = 0.75
"""From this similarity on a function is taken for a misspelt hook; what is less like one is the file's own."""
HOOKS = ("labels", "parse", "read", "references", "value", "VALUES")
Row = Any
"""A row of the task's data set, a dict."""


@dataclass(frozen=True)
class TaskHooks:
    """The optional functions of a task's Python file; the defaults are those of a task that has none."""

    labels: Callable[[Row], Sequence[str]] = lambda _row: ()
    """Return the gold labels of a row."""
    references: Callable[[Row], Sequence[str] | None] = lambda _row: None
    """Return the gold texts of a row; None: the targets of its YAML."""
    value: Callable[[Row], float | None] = lambda _row: None
    """Return the gold number of a row."""
    read: Callable[[str], str] = lambda output: output
    """Return an output as it is scored."""
    parse: Callable[[str, Row], Sequence[str] | None] | None = None
    """Return the labels that an output gives, None if it is malformed; without it the task has no grammar."""
    values: tuple[float, ...] = ()
    """What number each choice stands for."""


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
