"""Compute what the verdicts of a judge say together; verdicts that could not be read are counted, and in no mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.judging.asking import Order, Verdict, group_by_question
from bitnet_bench.runs.records import (
    Estimated,
    Example,
    JudgedPart,
    PositionBias,
    PossibleEstimate,
    Unavailable,
)
from bitnet_bench.statistics import interval, mean_stderr, wilson

NOTHING_READ = "no verdict could be read"
WORTH: Mapping[tuple[str, Order], float] = {
    ("first", "ab"): 1.0,
    ("second", "ab"): 0.0,
    ("first", "ba"): 0.0,
    ("second", "ba"): 1.0,
    ("tie", "ab"): 0.5,
    ("tie", "ba"): 0.5,
}
"""Worth of a preference for run A, by the order in which the answers were shown."""
WIN_RATE_SCALE = (0.0, 100.0)


@dataclass(frozen=True)
class JudgedQuestion:
    """The value of each turn of one question: points, or per cent of a win; None where no verdict could be read."""

    doc_id: int
    category: str
    turns: tuple[float | None, ...]

    @property
    def value(self) -> float | None:
        """Return the mean over turns; None if one has no value."""
        known = [value for value in self.turns if value is not None]
        return sum(known) / len(known) if len(known) == len(self.turns) else None


def value_single(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> list[JudgedQuestion]:
    """Return the points of every question."""
    found = group_by_question(verdicts)
    return [
        JudgedQuestion(
            example.doc_id,
            example.groups.get("category", ""),
            tuple(found[example.doc_id][turn, "single"].score for turn in range(len(example.turns))),
        )
        for example in examples
    ]


def value_pairs(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> list[JudgedQuestion]:
    """Return run A's share of a win in every question, in per cent: the mean of both orders."""
    found = group_by_question(verdicts)
    return [
        JudgedQuestion(
            example.doc_id,
            example.groups.get("category", ""),
            tuple(_value_pair(found[example.doc_id], turn) for turn in range(len(example.turns))),
        )
        for example in examples
    ]


def _value_pair(verdicts: Mapping[tuple[int, Order], Verdict], turn: int) -> float | None:
    both = _find_worths(verdicts, turn)
    return None if both is None else 50.0 * (both[0] + both[1])


def _find_worths(verdicts: Mapping[tuple[int, Order], Verdict], turn: int) -> tuple[float, float] | None:
    """Return the worth of both orders for run A; None if a verdict is missing or could not be read."""
    first, second = verdicts.get((turn, "ab")), verdicts.get((turn, "ba"))
    if first is None or second is None or first.preferred is None or second.preferred is None:
        return None
    return WORTH[first.preferred, "ab"], WORTH[second.preferred, "ba"]


def summarize_questions(questions: Sequence[JudgedQuestion], scale: tuple[float, float]) -> dict[str, Any]:
    """Return the fields of a `JudgedScore` that are about *questions*: means over all, by turn and by category."""
    whole = _summarize_part(questions, scale)
    names = dict.fromkeys(question.category for question in questions if question.category)
    categories = {
        name: _summarize_part([question for question in questions if question.category == name], scale)
        for name in names
    }
    return {
        "scale": scale,
        "score": whole.score,
        "turns": whole.turns,
        "questions": whole.questions,
        "complete": whole.complete,
        "categories": categories,
    }


def _summarize_part(questions: Sequence[JudgedQuestion], scale: tuple[float, float]) -> JudgedPart:
    turns = max((len(question.turns) for question in questions), default=0)
    values = [question.value for question in questions if question.value is not None]
    return JudgedPart(
        score=estimate_mean(values, scale),
        turns=tuple(
            estimate_mean(
                [value for q in questions if turn < len(q.turns) and (value := q.turns[turn]) is not None], scale
            )
            for turn in range(turns)
        ),
        questions=len(questions),
        complete=len(values),
    )


def estimate_mean(values: Sequence[float], scale: tuple[float, float]) -> PossibleEstimate:
    """Return the mean with its 95 % interval over questions, or why there is none."""
    if not values:
        return Unavailable(reason=NOTHING_READ)
    mean = sum(values) / len(values)
    return Estimated(value=mean, interval=interval(mean, mean_stderr(values), *scale, n=len(values)))


def count_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the fields of a `JudgedScore` that count verdicts."""
    reasons = Counter(verdict.unparsable for verdict in verdicts if not verdict.is_read)
    return {
        "verdicts": len(verdicts),
        "unparsable": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "cut": sum(verdict.is_cut for verdict in verdicts),
    }


def count_pairs(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the fields of a pairwise `JudgedScore` that count pairs: wins, ties and losses, and the position bias."""
    worths = [
        both
        for verdicts_of_one in group_by_question(verdicts).values()
        for turn in sorted({turn for turn, _order in verdicts_of_one})
        if (both := _find_worths(verdicts_of_one, turn)) is not None
    ]
    wins = sum(both == (1.0, 1.0) for both in worths)
    losses = sum(both == (0.0, 0.0) for both in worths)
    preferred = [verdict.preferred for verdict in verdicts if verdict.preferred in ("first", "second")]
    position = PositionBias(
        pairs=len(worths),
        flips=sum(abs(ab - ba) == 1.0 for ab, ba in worths),
        first=estimate_share(preferred.count("first"), len(preferred)),
    )
    return {"wins": wins, "ties": len(worths) - wins - losses, "losses": losses, "position": position}


def estimate_share(count: int, total: int) -> PossibleEstimate:
    """Return a share in per cent with Wilson's interval, or why there is none."""
    if not total:
        return Unavailable(reason=NOTHING_READ)
    low, high = wilson(count, total)
    return Estimated(value=100 * count / total, interval=(100 * low, 100 * high))
