"""Compare two run folders, and check their differences against conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.comparison.results import MARGIN
from bitnet_bench.errors import BenchError

if TYPE_CHECKING:
    from bitnet_bench.comparison import Comparison
    from bitnet_bench.comparison.conditions import ConditionResult
    from bitnet_bench.runs.run import Notice


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison, the conditions that it was checked against, and what is wrong with the runs."""

    comparison: Comparison
    outcomes: tuple[ConditionResult, ...]
    notices: tuple[Notice, ...]


def compare_runs(a: Path, b: Path, margin: float = MARGIN, conditions: Sequence[str] = ()) -> ComparisonResult:
    """Compare the run folder *a* with *b*, and check *conditions* (see `conditions.parse_condition`).

    BenchError says what differs if no task can be compared.
    """
    from bitnet_bench.comparison import compare
    from bitnet_bench.comparison.conditions import evaluate_condition, parse_condition
    from bitnet_bench.comparison.training import training_notices
    from bitnet_bench.runs.reading import read_run

    ours, theirs = read_run(a), read_run(b)
    asked = [parse_condition(text, ours, theirs) for text in conditions]
    found = compare(ours, theirs, margin)
    if not found.differences:
        differing = dict.fromkeys(f"{words.en}." for refused in found.refused for words in refused.differs)
        raise BenchError(f"{a} and {b} cannot be compared.", "\n  ".join(differing) or "Neither has a score.")
    outcomes = tuple(evaluate_condition(condition, ours, theirs) for condition in asked)
    return ComparisonResult(
        found, outcomes, tuple(dict.fromkeys((*training_notices(ours, theirs), *ours.notices, *theirs.notices)))
    )
