"""Define the values that a comparison of two runs returns."""

from __future__ import annotations

from typing import Literal

from bitnet_bench.runs.choices import MARGIN as MARGIN
from bitnet_bench.runs.value import Value

Verdict = Literal["better", "worse", "slightly-better", "slightly-worse", "equal", "undecided"]
"""Verdict on the first run against the second.

better, worse: a difference was found. slightly: one was found, and it is smaller than the margin. equal: none was
found, and one as large as the margin is excluded. undecided: none was found, and none is excluded.
"""
TestName = Literal["mcnemar-exact", "mcnemar", "t", "bootstrap"]


class EffectSize(Value):
    """The size of a difference, independent of the number of examples (`bitnet_bench.statistics.paired.Effect`)."""

    kind: Literal["g", "dz"]
    value: float
    low: float
    high: float


class Sentence(Value):
    """A sentence in both languages."""

    ko: str
    en: str


class Difference(Value):
    """The first run minus the second on one task, in the unit of its metric (points of 100 where it is a share)."""

    task: str
    metric: str
    n: int
    a: float
    b: float
    difference: float
    stderr: float
    low: float
    high: float
    """Upper limit of the 95 % interval of the difference; `low` is the lower one."""
    test: TestName
    p: float
    p_holm: float
    """p-value adjusted over all tasks of the comparison."""
    equivalence_p: float | None
    """p-value of a difference outside the margin, adjusted as well; None if the margin has no meaning for the
    metric."""
    effect: EffectSize | None
    lower_is_better: bool
    flipped_wrong: int
    """Number of examples that the second run has right and the first has wrong."""
    flipped_right: int
    """Number of examples that the first run has right and the second has wrong."""
    verdict: Verdict


class MeanDifference(Value):
    """The mean of the tasks' differences in points, each task with the same weight."""

    tasks: int
    n: int
    difference: float
    stderr: float
    low: float
    high: float
    p: float
    equivalence_p: float
    verdict: Verdict


class RefusedTask(Value):
    """A task that cannot be compared, and what differs."""

    task: str
    differs: tuple[Sentence, ...]


class Comparison(Value):
    """The comparison of two runs, task by task."""

    a: str
    b: str
    margin: float
    """Difference in points that is too small to matter."""
    differences: tuple[Difference, ...]
    refused: tuple[RefusedTask, ...]
    mean: MeanDifference | None
    """Mean over tasks; None if there is no task whose points can be averaged."""

    @property
    def has_tasks(self) -> bool:
        """Return whether the runs share a task that has a score, comparable or not."""
        return bool(self.differences or self.refused)
