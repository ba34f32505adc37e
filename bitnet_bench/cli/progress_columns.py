"""Columns of a progress bar: what is being done, how much of it, and the time, in the width of a terminal."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as RichTimeRemainingColumn
from rich.table import Column
from rich.text import Text


class CountColumn(MofNCompleteColumn):
    """How many of how many; nothing for what is not counted."""

    def render(self, task: Task) -> Text:
        """Return the count."""
        return super().render(task) if task.total and task.total > 1 else Text()


class TimeRemainingColumn(RichTimeRemainingColumn):
    """The time that is left; nothing while it is not known, and at the end."""

    def render(self, task: Task) -> Text:
        """Return the time."""
        is_known = task.total and task.time_remaining is not None and not task.finished
        return super().render(task) if is_known else Text()


def make_columns() -> tuple[ProgressColumn, ...]:
    """Return the columns in their order; a title that is too long is cut before a figure is."""
    return (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2)),
        BarColumn(bar_width=20),
        CountColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )
