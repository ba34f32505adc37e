"""Give the runs of a report distinct names, and find what groups them: stage, seed, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.machines import Machine
from bitnet_bench.runs.records import Cost, RunRecord, Score
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.wording import Text, get_text, plain_text

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8f98")
"""Palette of Okabe and Ito (2008), which colour-blind readers can tell apart; shapes and letters show the same."""


@dataclass(frozen=True)
class NamedRun:
    """A run with a distinct name. *key* is a letter that stands for it in charts and tables."""

    key: str
    name: str
    colour: int
    results: LoadedRun
    across_machines: bool = False
    """True if its costs are compared with those of other machines as well, because the reader asked for it."""

    @property
    def record(self) -> RunRecord:
        """Return the run's record."""
        return self.results.record

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """Return the costs, each with its machine; without any if costs of different machines are to be compared."""
        here = self.record.environment.machine
        return tuple(
            cost.model_copy(update={"machine": None if self.across_machines else cost.machine or here})
            for cost in self.record.costs
        )

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """Return the machines that it was measured on, by id."""
        here = self.record.environment.machine
        return {machine.id: machine for machine in (cost.machine or here for cost in self.record.costs)}

    @cached_property
    def scores(self) -> dict[tuple[str, str], Score]:
        """Return the scores by (task, metric)."""
        return {(score.task, score.metric): score for score in self.record.scores}

    @cached_property
    def primary(self) -> dict[str, Score]:
        """Return the primary score of each task."""
        return {score.task: score for score in self.record.scores if score.primary}

    @property
    def label(self) -> Text:
        """Return letter and name."""
        return plain_text(f"{self.key} · {self.name}")

    @property
    def stage(self) -> str | None:
        """Return the stage, before or after fine-tuning, if the run records it."""
        stage = self.record.settings.get("stage")
        return str(stage) if stage else None

    @property
    def stage_words(self) -> tuple[Text, ...]:
        """Return the stage as words, if there is one."""
        if self.stage in ("before", "after"):
            return (get_text(f"stage.{self.stage}"),)
        return (plain_text(self.stage),) if self.stage else ()

    @property
    def seed(self) -> int | None:
        """Return the seed of the training of the checkpoint, if it is known."""
        return self.results.training.job.seed if self.results.training else None


def name_runs(runs: Sequence[LoadedRun], across_machines: bool = False) -> tuple[NamedRun, ...]:
    """Return the runs with distinct names; BenchError if there are none.

    Costs of different machines are kept apart, unless *across_machines*.
    """
    if not runs:
        raise BenchError("There is no run to report.", "Name at least one run folder.")
    names: list[str] = []
    result = []
    for index, results in enumerate(order_runs(runs)):
        names.append(_make_unique_name(results.record.name, names))
        result.append(NamedRun(make_letter(index), names[-1], index % len(COLOURS), results, across_machines))
    return tuple(result)


def order_runs(runs: Sequence[LoadedRun]) -> list[LoadedRun]:
    """Return ternary runs each with its twin behind it, then the other runs, and those before fine-tuning last.

    Runs that are all ternary, or none of them, keep their order: each is held against the first.
    """
    ternary = [run for run in runs if run.record.precision in TERNARY_PRECISIONS]
    others = [run for run in runs if run.record.precision not in TERNARY_PRECISIONS]
    if not ternary or not others:
        return list(runs)
    order: list[LoadedRun] = []
    for run in ternary:
        twins = [twin for twin in others if _find_kind(twin) == _find_kind(run)]
        order += [one for one in (run, *twins[:1]) if not any(one is other for other in order)]
    order += [run for run in runs if not any(run is other for other in order)]
    return sorted(order, key=lambda run: run.record.settings.get("stage") == "before")


def _find_kind(run: LoadedRun) -> tuple[object, object]:
    """Return stage and seed, which twins share."""
    return run.record.settings.get("stage"), run.training.job.seed if run.training else None


def make_letter(index: int) -> str:
    """Return A, B, ... Z, then numbers."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _make_unique_name(name: str, taken: Sequence[str]) -> str:
    free, copy = name, 1
    while free in taken:
        copy += 1
        free = f"{name} ({copy})"
    return free
