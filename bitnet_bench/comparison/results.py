"""The values that a comparison of two runs gives."""

from __future__ import annotations

from typing import Literal

from bitnet_bench.runs.choices import MARGIN as MARGIN
from bitnet_bench.runs.value import Value

Verdict = Literal["better", "worse", "slightly-better", "slightly-worse", "equal", "undecided"]
"""Of the first run against the second.

better, worse: a difference was found. slightly: one was found, and it is smaller than the margin. equal: none was
found, and one as large as the margin is excluded. undecided: none was found, and none is excluded.
"""
TestName = Literal["mcnemar-exact", "mcnemar", "t", "bootstrap"]


class EffectSize(Value):
    """How large a difference is whatever the number of examples (`bitnet_bench.statistics.paired.Effect`)."""

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
    """The 95 % interval of the difference."""
    test: TestName
    p: float
    p_holm: float
    """Adjusted over all tasks of the comparison."""
    equivalence_p: float | None
    """Of the difference lying outside the margin, adjusted too; None where the margin has no meaning."""
    effect: EffectSize | None
    lower_is_better: bool
    flipped_wrong: int
    """Examples that the second run has right and the first has wrong."""
    flipped_right: int
    """Examples that the first run has right and the second has wrong."""
    verdict: Verdict


class MeanDifference(Value):
    """The mean of the tasks' differences, each task weighing the same, in points."""

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
    """Two runs, task by task."""

    a: str
    b: str
    margin: float
    """What is too small to matter, in points."""
    differences: tuple[Difference, ...]
    refused: tuple[RefusedTask, ...]
    mean: MeanDifference | None
    """None if there is no task whose points can be averaged."""
