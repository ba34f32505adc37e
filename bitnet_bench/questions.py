"""Let a function below the command line ask the user, if there is one who can answer."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

ASK: ContextVar[Callable[[str], bool] | None] = ContextVar("ASK", default=None)
"""Function that asks a question and returns whether the answer is yes; None where nobody can answer."""
