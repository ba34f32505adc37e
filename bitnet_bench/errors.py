"""Errors whose messages are for the user, and the messages of failed validations."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_PROBLEM_CHARACTERS, MAX_HINT_CHARACTERS = 1200, 800
"""Bounds of the two parts of a message: a foreign file must not fill the terminal with its own text."""
MEMORY_HINT = "Use a smaller model, batch or length, or end other programs; what was finished is kept."


class BenchError(Exception):
    """An error with a sentence that says what went wrong, and one that says what to do about it.

    It is raised anywhere and caught once, in `bitnet_bench.cli.main`, which prints both and exits with status 1.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem = shorten_text(problem, MAX_PROBLEM_CHARACTERS)
        self.hint = shorten_text(hint, MAX_HINT_CHARACTERS)
        super().__init__(self.problem)

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.hint}" if self.hint else self.problem


class UsageError(BenchError):
    """Wrong usage, such as an unknown name; exit status 2 on the command line."""


class DivergedError(BenchError):
    """Training diverged at *step* with these settings, and would diverge again."""

    def __init__(self, problem: str, hint: str = "", step: int | None = None) -> None:
        super().__init__(problem, hint)
        self.step = step


class GpuLostError(BenchError):
    """The GPU failed and this process cannot use it any more: everything that follows would fail as well."""


class EndpointLostError(BenchError):
    """A server does not answer, or refuses every request: everything that follows would fail as well."""


class RequestRefusedError(BenchError):
    """A server refuses a request however often it is sent; others may be answered.

    *message* is what the server says, and *request* the index of the request among those of the call, if it is known.
    """

    def __init__(self, problem: str, hint: str = "", message: str = "") -> None:
        super().__init__(problem, hint)
        self.message = message
        self.request: int | None = None


class RowError(BenchError):
    """A row cannot be scored; *what* is the end of a sentence that begins with the row's location."""

    def __init__(self, row: int | None, what: str, hint: str = "") -> None:
        super().__init__(f"{'A row' if row is None else f'Row {row}'} {what}.", hint)
        self.row = row
        self.what = what


class NotFiniteError(BenchError):
    """The model computed NaN or infinity for a request, which is its index among those of the call."""

    def __init__(self, request: int, precision: str) -> None:
        super().__init__(f"The model computes NaN or infinity in {precision}.", _hint_not_finite(precision))
        self.request, self.precision = request, precision


def _hint_not_finite(precision: str) -> str:
    if precision == "fp16":
        return "Its values exceed the range of fp16: try `precision=bf16` or `precision=fp32`."
    return "Its config.json or its weights are damaged: compare them with those that were published."


def shorten_text(text: str, characters: int) -> str:
    """Return *text*, or its beginning and its end in at most *characters*."""
    if len(text) <= characters:
        return text
    end = characters // 4
    return f"{text[: characters - end - 3]} … {text[-end:]}"


def explain_system_error(error: BaseException) -> BenchError | None:
    """Return the error of the system as a sentence: a file, memory, depth or text; None if *error* is another."""
    if isinstance(error, OSError):
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{' and '.join(files)}: " if files else ""
        return BenchError(
            f"The system refused: {where}{error.strerror or error}.", "Check the path and its permissions."
        )
    if is_out_of_memory(error):
        return BenchError("There is not enough memory for this.", MEMORY_HINT)
    if isinstance(error, RecursionError):
        return BenchError("A value is nested too deeply to be read.", "Look at the files that the command reads.")
    if isinstance(error, UnicodeError):
        return BenchError(f"A text cannot be read or written: {error}.", "Save files as UTF-8, and set PYTHONUTF8=1.")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether *error* is Python's or torch's word for memory that could not be had."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    return type(error).__name__ == "OutOfMemoryError" or any(
        said in str(error) for said in ("can't allocate memory", "std::bad_alloc", "Cannot allocate memory")
    )


def format_validation_error(error: ValueError, name: Callable[[str], str] = str) -> str:
    """Return the first fault that a validation found, in a few words: where, and why.

    *name* formats the location, such as `finetune.epochs`.
    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    return explain_fault(error.errors()[0], name)


def explain_fault(fault: Mapping[str, Any], name: Callable[[str], str] = str) -> str:
    """Return one of pydantic's errors in words: `epochs must be greater than 0, not 0`."""
    place = shorten_text(".".join(map(str, fault["loc"])), 200)  # a field that is not known may have any name
    why = str(fault["msg"]).removeprefix("Value error, ")
    if not place:
        return why
    if fault["type"] == "extra_forbidden":
        return f"{name(place)} is not known here"
    if why.startswith("Input should "):
        given = fault["input"]
        why = f"must {why.removeprefix('Input should ')}"
        why += f", not {_show_value(given)}" if isinstance(given, str | int | float) else ""
    return f"{name(place)} {why}" if why.startswith("must ") else f"{name(place)}: {why}"


def _show_value(given: str | int | float) -> str:
    """Return a value for a message; Python refuses to write an integer of thousands of digits."""
    if isinstance(given, int) and given.bit_length() > 256:
        return f"an integer of {given.bit_length():,} bits"
    return shorten_text(repr(given), 200)


def did_you_mean(name: str, known: Sequence[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return a question that suggests at most *most* of *known* for a wrong *name*; "" if none is similar."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=cutoff)
    return f"Did you mean {', '.join(close)}?" if close else ""
