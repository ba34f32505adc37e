"""Name the runs of a report apart, or say why they cannot be reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bitnet_bench.errors import BenchError
from bitnet_bench.records import Example, Measured, Modelled, RunRecord, Score

COLOURS = 7


@dataclass(frozen=True)
class NamedRun:
    """A run under a name of its own. *key* is a letter that stands for it in charts and tables."""

    key: str
    name: str
    colour: str
    record: RunRecord
    examples: tuple[Example, ...]

    @cached_property
    def scores(self) -> dict[tuple[str, str], Score]:
        """The scores by (task, metric)."""
        return {(score.task, score.metric): score for score in self.record.scores}

    @cached_property
    def primary(self) -> dict[str, Score]:
        """The primary score of each task."""
        return {score.task: score for score in self.record.scores if score.primary}

    @cached_property
    def by_task(self) -> dict[str, list[Example]]:
        """The examples of each task."""
        tasks: dict[str, list[Example]] = {}
        for example in self.examples:
            tasks.setdefault(example.task, []).append(example)
        return tasks

    @property
    def stage(self) -> str | None:
        """Before or after fine-tuning, where the run says so."""
        stage = self.record.settings.get("stage")
        return str(stage) if stage else None


def named(runs: Sequence[tuple[RunRecord, Sequence[Example]]]) -> tuple[NamedRun, ...]:
    """Return the runs under distinct names; BenchError if there are none or a number is not finite."""
    if not runs:
        raise BenchError("There is no run to report.", "Name at least one run folder.")
    names: list[str] = []
    result = []
    for index, (record, examples) in enumerate(runs):
        names.append(_free(record.name, names))
        key = chr(ord("A") + index) if index < 26 else str(index + 1)
        run = NamedRun(key, names[-1], f"c{index % COLOURS}", record, tuple(examples))
        _check(run)
        result.append(run)
    return tuple(result)


def _free(name: str, taken: Sequence[str]) -> str:
    free, copy = name, 1
    while free in taken:
        copy += 1
        free = f"{name} ({copy})"
    return free


def _check(run: NamedRun) -> None:
    for what, numbers in _numbers(run):
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise BenchError(
                f"Run {run.name!r} has a number that is not finite: {what}.",
                "Evaluate or measure it again; a missing number is left out of a record, never NaN.",
            )


def _numbers(run: NamedRun) -> Iterable[tuple[str, tuple[float | None, ...]]]:
    for score in run.record.scores:
        yield f"{score.metric} of {score.task}", (score.value, score.stderr, score.chance)
    for example in run.examples:
        yield f"example {example.doc_id} of {example.task}", (example.correct,)
    for cost in run.record.costs:
        yield "foreign_load", (cost.foreign_load,)
        for name, measurement in cost.metrics.items():
            if isinstance(measurement, Measured):
                yield name, measurement.readings
            elif isinstance(measurement, Modelled):
                yield name, (measurement.value,)
