"""The errors that are meant for the reader of a terminal, and how they say what a validation found."""

from __future__ import annotations


class BenchError(Exception):
    """What went wrong, in a sentence, and what to do about it.

    Raised anywhere, caught once, in `bitnet_bench.cli.main`, which prints both parts and exits with status 1.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.hint}" if self.hint else self.problem


class UsageError(BenchError):
    """The command line itself is wrong: exit status 2."""


class DivergedError(BenchError):
    """Training went wrong with these settings, and would again."""


class GpuLostError(BenchError):
    """The GPU failed, and this process cannot use it any more: whatever comes next would fail as well."""


class RowError(BenchError):
    """A row cannot be scored: *what* is the end of a sentence that begins with its place."""

    def __init__(self, row: int | None, what: str, hint: str = "") -> None:
        super().__init__(f"{'A row' if row is None else f'Row {row}'} {what}.", hint)
        self.row = row
        self.what = what


def explain(error: ValueError) -> str:
    """Return the first thing that a validation found wrong, in a few words: where, and why."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])
