"""Compare two run folders, and check their differences against conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.comparison.results import MARGIN
from bitnet_bench.errors import BenchError
from bitnet_bench.wording import get_text

if TYPE_CHECKING:
    from bitnet_bench.comparison import Comparison
    from bitnet_bench.comparison.conditions import ConditionResult
    from bitnet_bench.runs.run import Notice

NO_SCORE_HINT = "Neither has a measured score. `bitnet-bench report` shows what people or a judge said of open answers."


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison, the conditions that it was checked against, and what is wrong with the runs."""

    comparison: Comparison
    outcomes: tuple[ConditionResult, ...]
    notices: tuple[Notice, ...]


def compare_runs(a: Path, b: Path, margin: float = MARGIN, conditions: Sequence[str] = ()) -> ComparisonResult:
    """Compare the run folder *a* with *b*, and check *conditions* (see `conditions.parse_condition`).

    BenchError says what differs if no task can be compared, and names a file that was edited if there are conditions.
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
        raise BenchError(f"{a} and {b} cannot be compared.", "\n  ".join(differing) or NO_SCORE_HINT)
    notices = tuple(dict.fromkeys((*training_notices(ours, theirs), *ours.notices, *theirs.notices)))
    if conditions:
        _refuse_edited(notices)
    outcomes = tuple(evaluate_condition(condition, ours, theirs) for condition in asked)
    return ComparisonResult(found, outcomes, notices)


def _refuse_edited(notices: Sequence[Notice]) -> None:
    """Raise BenchError if a record or its examples were edited: a check that passes on such numbers says nothing."""
    edited = next((notice.where for notice in notices if notice.what == get_text("notice.edited")), None)
    if edited is not None:
        raise BenchError(
            f"{edited} was edited after it was written, and no condition is checked on it.", "Evaluate again."
        )
