"""Collect the runs' outputs on the same row as data for the page's table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.runs.example_table import have_equal_fields, list_values
from bitnet_bench.runs.records import Example
from bitnet_bench.wording import LANGUAGES
from bitnet_bench.wording.names import format_task_name

MAX_TEXT_CHARS = 2000
"""Number of characters of a text that are shown."""
MAX_CHOICE_CHARS = 200
"""Number of characters of a choice that are shown."""
MAX_CHOICES = 40
"""Number of choices of an example above which their probabilities are left out."""
RowAnswers = list[Example | None]
KEY_FIELDS = ("doc_id", "prompt", "target")
RowKey = tuple[int, str, str]
"""The values of KEY_FIELDS of a row."""
RowPlaces = list[int | None]
"""Where each run has its answer to a row."""


@dataclass
class Samples:
    """The rows that the page shows, collected task by task, and the number of all rows.

    If a task has more rows than its share of *limit*, those on which runs differ in right and wrong come first, then
    those that none has right, then by number: no row is chosen for its content.
    """

    runs: Sequence[NamedRun]
    limit: int
    tasks: list[str] = field(default_factory=list)
    total: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, task: str, examples: Mapping[str, Sequence[Example]], share: int) -> None:
        """Add at most *share* rows of *task*, whose examples are given by the runs' letters."""
        of_runs = [examples[run.key] for run in self.runs]
        rows = _group_answers(of_runs)
        self.total += len(rows)
        if not rows or not share:
            return
        number = len(self.tasks)
        self.tasks.append(task)
        shown = sorted(rows, key=_get_doc_id)
        if len(rows) > share:
            rank = _make_ranking(of_runs, rows)
            shown = sorted(sorted(rows, key=rank)[:share], key=_get_doc_id)
        for places in (rows[key] for key in shown):
            answers = [None if at is None else some[at] for at, some in zip(places, of_runs, strict=True)]
            self.rows.append(_row(number, answers))

    def data(self, pair: tuple[NamedRun, NamedRun] | None) -> dict[str, Any]:
        """Return the data for the page's script, a list for each column; *pair* is shown first."""
        letters = [run.key for run in self.runs]
        columns = ("task", "doc", "prompt", "target", "outputs", "got", "malformed", "choices", "shares", "gold")
        return {
            "tasks": [make_visible(task) for task in self.tasks],
            "names": [
                {language: make_visible(format_task_name(task).in_language(language)) for language in LANGUAGES}
                for task in self.tasks
            ],
            "runs": [{"key": run.key, "name": make_visible(run.name), "colour": run.colour} for run in self.runs],
            "pair": [letters.index(run.key) for run in pair] if pair else [0, 0],
            "total": self.total,
            **{column: [row[column] for row in self.rows] for column in columns},
        }


def _group_answers(examples: Sequence[Sequence[Example]]) -> dict[RowKey, RowPlaces]:
    """Group by number, prompt and target: rows of different data sets may share a number."""
    rows: dict[RowKey, RowPlaces] = {}
    for run, given in enumerate(examples):
        same = next((other for other in range(run) if have_equal_fields(examples[other], given, KEY_FIELDS)), None)
        if same is not None:
            for places in rows.values():
                places[run] = places[same]
            continue
        for at, key in enumerate(zip(*(list_values(given, name) for name in KEY_FIELDS), strict=True)):
            rows.setdefault(key, [None] * len(examples))[run] = at
    return rows


def _get_doc_id(key: RowKey) -> int:
    return key[0]


def _make_ranking(
    examples: Sequence[Sequence[Example]], rows: Mapping[RowKey, RowPlaces]
) -> Callable[[RowKey], tuple[int, int]]:
    """Return the rank of a row: runs that differ in right and wrong first, then rows that none has right."""
    are_right = [[value >= 1.0 for value in list_values(given, "correct")] for given in examples]

    def rank(key: RowKey) -> tuple[int, int]:
        right = {of_run[at] for of_run, at in zip(are_right, rows[key], strict=True) if at is not None}
        return (0 if len(right) > 1 else 1 if False in right else 2, _get_doc_id(key))

    return rank


def _row(task: int, answers: RowAnswers) -> dict[str, Any]:
    first = next(answer for answer in answers if answer)
    choices = first.choices if len(first.choices) <= MAX_CHOICES else ()
    return {
        "task": task,
        "doc": first.doc_id,
        "prompt": clip_text(first.prompt),
        "target": clip_text(first.target),
        "outputs": [clip_text(answer.output) if answer else None for answer in answers],
        # an answer to an open task has no metric
        "got": [round(answer.correct, 4) if answer and not answer.turns else None for answer in answers],
        "malformed": [int(answer.malformed) if answer else 0 for answer in answers],
        "choices": [clip_text(choice, MAX_CHOICE_CHARS) for choice in choices],
        "shares": [compute_choice_shares(answer, choices) if answer else [] for answer in answers],
        "gold": -1 if first.target_choice is None else first.target_choice,
    }


def compute_choice_shares(answer: Example, choices: Sequence[str]) -> list[float]:
    """Return the probability of each choice among the *choices*, exp(l) / sum exp(l) of its log-likelihoods l.

    [] if the answer has other choices or no log-likelihoods.
    """
    if not choices or answer.choices != tuple(choices) or len(answer.loglikelihoods) != len(choices):
        return []
    largest = max(answer.loglikelihoods)
    weights = [math.exp(value - largest) for value in answer.loglikelihoods]
    return [round(weight / sum(weights), 4) for weight in weights]


def clip_text(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Return the first *limit* characters of *text*, made visible, followed by the number of characters cut."""
    if len(text) <= limit:
        return make_visible(text)
    return f"{make_visible(text[:limit])} … (+{len(text) - limit:,})"
