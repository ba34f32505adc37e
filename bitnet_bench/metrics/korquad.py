"""Exact match and character F1 of KorQuAD 1.0's official script (evaluate-v1.0.py)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example

MARKS = re.compile("['\"《》<>〈〉()‘’]")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return *text* as the official script compares it, after NFC."""
    spaced = MARKS.sub(" ", unicodedata.normalize("NFC", text))
    return " ".join(spaced.lower().translate(PUNCTUATION).split())


class ExactMatch(MeanMetric):
    """Match of the normalised output with one of the references."""

    is_right_or_wrong = True

    def score_example(self, example: Example) -> float:
        """Return 1.0 on a match with any reference."""
        return float(any(normalise(example.output) == normalise(reference) for reference in example.references))

    def signature(self) -> str:
        """Return the signature."""
        return "exact_match|norm:korquad1+nfc|refs:max|stderr:mean|v1"


class CharacterF1(ExactMatch):
    """F1 over the bag of characters without white space; the best over the references.

    For a question without an answer, whose reference is "", it is 1 if the output is empty too, as in SQuAD 2.0;
    KorQuAD 1.0 has no such questions.
    """

    is_right_or_wrong = False

    def score_example(self, example: Example) -> float:
        """Return the best F1 over the references."""
        return max(_character_f1(example.output, reference) for reference in example.references)

    def signature(self) -> str:
        """Return the signature."""
        return "char_f1|norm:korquad1+nfc|refs:max|stderr:mean|v1"


def _character_f1(output: str, reference: str) -> float:
    if not reference:
        return float(not normalise(output))
    ours, theirs = (Counter(normalise(text).replace(" ", "")) for text in (output, reference))
    same = (ours & theirs).total()
    return 2.0 * same / (ours.total() + theirs.total()) if same else 0.0
