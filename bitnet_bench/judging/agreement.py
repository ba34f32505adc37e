"""Compare what a judge says with what people said about the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitnet_bench.judging.scoring import JudgedQuestion, estimate_share
from bitnet_bench.rating.collect import compute_alpha
from bitnet_bench.runs.records import (
    Estimated,
    HumanJudgement,
    JudgeAgreement,
    PossibleEstimate,
    RatedItem,
    RunRecord,
    Unavailable,
)

MIN_QUESTIONS = 3
"""Number of questions below which a correlation says nothing."""


def compare_preferences(
    task: str, record: RunRecord, other: RunRecord, questions: Sequence[JudgedQuestion]
) -> tuple[JudgeAgreement, ...]:
    """Return how far the judge's preferences between two runs agree with the people who rated the same two."""
    found = []
    for said in record.judgements:
        sign = _find_orientation(said, record, other)
        rated = {item.doc_id: item for item in said.rated if item.task == task}
        pairs = [
            (sign * _prefer(rated[one.doc_id].wins_a, rated[one.doc_id].wins_b), _prefer(one.value, 50.0))
            for one in questions
            if sign and one.value is not None and one.doc_id in rated
        ]
        if pairs:
            found.append(_describe_preferences(said, pairs))
    return tuple(found)


def _find_orientation(said: HumanJudgement, record: RunRecord, other: RunRecord) -> int:
    """Return 1 if *record* was run A of a sheet and *other* run B, -1 for the reverse, 0 for other runs."""
    ours, theirs = ((run.name, run.checkpoint.sha256) for run in (record, other))
    rated = (said.a, said.a_sha256), (said.b, said.b_sha256)
    return 1 if rated == (ours, theirs) else -1 if rated == (theirs, ours) else 0


def _prefer(ours: float, theirs: float) -> int:
    """Return 1, 0 or -1 for a preference for the first, a tie, and a preference for the second."""
    return (ours > theirs) - (ours < theirs)


def _describe_preferences(said: HumanJudgement, pairs: Sequence[tuple[int, int]]) -> JudgeAgreement:
    people, judge = zip(*pairs, strict=True)
    return JudgeAgreement(
        sheet=said.sheet,
        raters=len(said.raters),
        questions=len(pairs),
        kind="preference",
        share=estimate_share(sum(a == b for a, b in pairs), len(pairs)),
        alpha=compute_alpha([list(people), list(judge)], "nominal"),
    )


def compare_points(task: str, record: RunRecord, questions: Sequence[JudgedQuestion]) -> tuple[JudgeAgreement, ...]:
    """Return the rank correlation of the judge's scores with the points that people gave this run's answers."""
    found = []
    for said in record.judgements:
        points = _find_points(said, record, task)
        pairs = [(points[one.doc_id], one.value) for one in questions if one.value is not None and one.doc_id in points]
        if pairs:
            found.append(
                JudgeAgreement(
                    sheet=said.sheet,
                    raters=len(said.raters),
                    questions=len(pairs),
                    kind="points",
                    share=Unavailable(reason="people and the judge give points on different scales"),
                    alpha=_correlate(pairs),
                )
            )
    return tuple(found)


def _find_points(said: HumanJudgement, record: RunRecord, task: str) -> Mapping[int, float]:
    """Return people's points for the answers of *record*, by question; {} if it is not in the sheet."""
    own = (record.name, record.checkpoint.sha256)

    def read(item: RatedItem) -> float:
        return item.points_a if own == (said.a, said.a_sha256) else item.points_b

    if own not in ((said.a, said.a_sha256), (said.b, said.b_sha256)):
        return {}
    return {item.doc_id: read(item) for item in said.rated if item.task == task}


def _correlate(pairs: Sequence[tuple[float, float]]) -> PossibleEstimate:
    """Return Spearman's rank correlation, or why it is undefined."""
    people, judge = zip(*pairs, strict=True)
    if len(pairs) < MIN_QUESTIONS:
        return Unavailable(reason=f"a correlation needs {MIN_QUESTIONS} questions or more")
    if len(set(people)) < 2 or len(set(judge)) < 2:
        return Unavailable(reason="all answers were given the same points")
    from scipy.stats import spearmanr

    result: Any = spearmanr(people, judge)
    return Estimated(value=float(result.statistic))
