"""What several answers to a row are worth together: one right among k (pass@k), and the one that most of them give."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable
from math import comb

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example

RIGHT = 1.0
"""Score of an answer that is right."""
BASE = "exact_match"
"""Metric that says which answers are right where none is named."""


def list_several_answer_metrics(metrics: Iterable[str], answers: int) -> tuple[str, ...]:
    """Return the metrics that are added for *answers* answers to each row of a task with *metrics*.

    They are pass@k for 2, 4, ... and all, and a vote, by the first of *metrics* that is right or wrong; () without one.
    """
    from bitnet_bench.metrics import load_metric

    if answers < 2:
        return ()
    base = next((key for key in metrics if load_metric(key).is_right_or_wrong), None)
    if base is None:
        return ()
    numbers = [2**power for power in range(1, answers.bit_length()) if 2**power < answers]
    return (*(f"pass_at:{k}:{base}" for k in (*numbers, answers)), f"majority_vote:{base}")


class _SeveralAnswersMetric(MeanMetric):
    """A metric over all answers to a row, of which *base* says which are right."""

    reads_all_answers = True

    def __init__(self, base: str = BASE) -> None:
        from bitnet_bench.metrics import load_metric

        self._base = load_metric(base)
        if not self._base.is_right_or_wrong:
            raise BenchError(
                f"The metric {base!r} calls no answer right or wrong, as {self.name} needs.",
                "Name one such as exact_match.",
            )


class PassAt(_SeveralAnswersMetric):
    """Probability that one of k answers is right, without bias from c right ones of n: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, arXiv:2107.03374, equation 1.
    """

    name = "pass_at"

    def __init__(self, argument: str = "1") -> None:
        number, _, base = argument.partition(":")
        if not number.isdecimal() or not int(number):
            raise BenchError(f"'pass_at:{argument}' names no number of answers.", "Write pass_at:1, pass_at:8, ...")
        super().__init__(base or BASE)
        self.number = int(number)

    def score_example(self, example: Example) -> float:
        """Return the estimate for one row."""
        answers = example.each_answer()
        n, right = len(answers), sum(self._base.score_example(one) >= RIGHT for one in answers)
        if n < self.number:
            raise BenchError(
                f"The metric pass_at:{self.number} needs {self.number} answers to each row, and there are {n}.",
                f"Give `repeats={self.number}` and a `temperature`.",
            )
        return 1.0 - comb(n - right, self.number) / comb(n, self.number)

    def signature(self) -> str:
        """Return the signature."""
        return f"pass_at:{self.number}|unbiased|right:({self._base.signature()})|stderr:mean|v1"


class MajorityVote(_SeveralAnswersMetric):
    """Score of the answer that is given most often (self-consistency, arXiv:2203.11171); of equals, the first.

    Answers are equal if they have the same labels or choice, else the same text but for case, white space and a final
    full stop. Malformed ones have no vote; if all are, the row is wrong.
    """

    name = "majority_vote"

    def score_example(self, example: Example) -> float:
        """Return the score of the elected answer."""
        answers = [one for one in example.each_answer() if not one.malformed]
        if not answers:
            return 0.0
        ((elected, _),) = Counter(map(_find_vote, answers)).most_common(1)  # of equal counts, the first
        return self._base.score_example(next(one for one in answers if _find_vote(one) == elected))

    def signature(self) -> str:
        """Return the signature."""
        same = "labels-or-choice-or-nfkc-text"
        return f"majority_vote|same:{same}|ties:first|malformed:no-vote|right:({self._base.signature()})|stderr:mean|v1"


def _find_vote(example: Example) -> Hashable:
    if example.output_labels:
        return example.output_labels
    if example.output_choice is not None:
        return example.output_choice
    text = " ".join(unicodedata.normalize("NFKC", example.output).casefold().split())
    return text.rstrip(".。").rstrip()
