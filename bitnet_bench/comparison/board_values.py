"""Define the values of a leaderboard: runs, a column for each task, means over tasks, and twins."""

from __future__ import annotations

from typing import Any, Literal

from bitnet_bench.comparison.results import Comparison, MeanDifference, Sentence
from bitnet_bench.runs.value import Value

SHOWN_DIGEST_CHARS = 12


class BoardRun(Value):
    """A run of the leaderboard: what was scored, how, where and when. *key* stands for it in all other values."""

    key: str
    name: str
    folder: str
    model: str
    weights: str | None
    """First characters of the sha256 of the weights, and what they were read as if the user said it; None if a server
    holds them."""
    parameters: int
    ternary: bool
    precision: str
    backend: str
    settings: dict[str, Any]
    version: str | None
    machine: str
    time: str


class BoardScore(Value):
    """A score of one run, or its mean over tasks."""

    run: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    """Limits of the 95 % interval; None without a standard error."""
    n: int | None
    """Examples; None if their number is not recorded, as for a category."""
    rank: tuple[int, int] | None = None
    """Best and worst possible rank (`statistics.ranks`); None if the run is not ranked."""
    differs: tuple[Sentence, ...] = ()
    """Why the run is not ranked with the others."""


class BoardColumn(Value):
    """The scores of a task, or of one of its categories: the ranked runs, best first, then the others."""

    task: str
    category: str | None
    metric: str
    lower_is_better: bool
    in_points: bool
    """Whether the metric is a share of 100, which a mean over tasks needs."""
    chance: float | None
    n: int | None
    data: str | None
    """sha256 of the rows of the ranked runs."""
    signature: str
    settings: dict[str, Any]
    """Settings of the ranked runs that decide a score."""
    scores: tuple[BoardScore, ...]


class MissingMean(Value):
    """A run that has no mean, because it lacks tasks."""

    run: str
    lacks: tuple[str, ...]


class BoardMean(Value):
    """Mean scores over the tasks of a suite (None: over all), each task with the same weight."""

    suite: str | None
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    """Tasks whose metric is not in points."""
    scores: tuple[BoardScore, ...]
    missing: tuple[MissingMean, ...]


class BoardTwins(Value):
    """A ternary run beside its float twin: the ternary run minus the other, on the tasks that both have."""

    ternary: str
    twin: str
    test: Literal["paired", "unpaired", "none"]
    """paired: every row with the same row. unpaired: from standard errors, where there are no examples. none: no task
    is comparable."""
    mean: MeanDifference | None = None
    """Mean of the differences in points."""
    comparison: Comparison | None = None
    """All differences; None if they are unpaired."""
    differs: tuple[Sentence, ...] = ()
    """Why no task is comparable."""


class Board(Value):
    """A leaderboard."""

    suites: tuple[str, ...]
    tasks: tuple[str, ...]
    """Filters that the user gave; () for everything."""
    categories: tuple[str, ...]
    margin: float
    runs: tuple[BoardRun, ...]
    columns: tuple[BoardColumn, ...]
    means: tuple[BoardMean, ...]
    """Means of suites; the mean over all tasks is first if there are several suites."""
    twins: tuple[BoardTwins, ...]
