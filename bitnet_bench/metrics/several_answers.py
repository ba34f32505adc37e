"""What several answers to a row are worth together: one right among k (pass@k), and the one that most of them give."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable
from math import comb

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example

RIGHT = 1.0
"""Score of the task's primary metric from which an answer is right."""


def list_several_answer_metrics(answers: int) -> tuple[str, ...]:
    """Return the metrics that are added for *answers* answers to each row: pass@k for 2, 4, ... and all, and a vote."""
    numbers = [2**power for power in range(1, answers.bit_length()) if 2**power < answers]
    return (*(f"pass_at:{k}" for k in (*numbers, answers)), "majority_vote")


class PassAt(MeanMetric):
    """Probability that one of k answers is right, without bias from c right ones of n: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, arXiv:2107.03374, equation 1.
    """

    reads_all_answers = True

    def __init__(self, number: str = "1") -> None:
        if not number.isdecimal() or not int(number):
            raise BenchError(f"'pass_at:{number}' names no number of answers.", "Write pass_at:1, pass_at:8 and so on.")
        self.number = int(number)
        self.name = f"pass_at:{self.number}"

    def score_example(self, example: Example) -> float:
        """Return the estimate for one row."""
        answers = example.each_answer()
        n, right = len(answers), sum(one.correct >= RIGHT for one in answers)
        if n < self.number:
            raise BenchError(
                f"The metric {self.name} needs {self.number} answers to each row, and there are {n}.",
                f"Give `repeats={self.number}` and a `temperature`.",
            )
        return 1.0 - comb(n - right, self.number) / comb(n, self.number)

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|unbiased|right:primary-metric-is-1|stderr:mean|v1"


class MajorityVote(MeanMetric):
    """Score of the answer that is given most often (self-consistency, arXiv:2203.11171); of equals, the first.

    Answers are equal if they have the same labels or choice, else the same text but for case, white space and a final
    full stop. Malformed ones have no vote; if all are, the row is wrong.
    """

    name = "majority_vote"
    reads_all_answers = True

    def score_example(self, example: Example) -> float:
        """Return the score of the elected answer."""
        answers = [one for one in example.each_answer() if not one.malformed]
        if not answers:
            return 0.0
        votes = Counter(map(_find_vote, answers))  # of equal counts, most_common keeps the first
        ((elected, _),) = votes.most_common(1)
        return next(one.correct for one in answers if _find_vote(one) == elected)

    def signature(self) -> str:
        """Return the signature."""
        return "majority_vote|same:labels-or-choice-or-nfkc-text|ties:first|malformed:no-vote|stderr:mean|v1"


def _find_vote(example: Example) -> Hashable:
    if example.output_labels:
        return example.output_labels
    if example.output_choice is not None:
        return example.output_choice
    text = " ".join(unicodedata.normalize("NFKC", example.output).casefold().split())
    return text.rstrip(".。").rstrip()
