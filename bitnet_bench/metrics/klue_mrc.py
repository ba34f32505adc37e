"""KLUE-MRC (Park et al. 2021, section 3.7): exact match and ROUGE-W as KLUE-baseline computes them, and corrected.

Two errors of the official script are kept, because published values have them, and fixed in the variant `corrected`:
its pattern of marks has a misplaced bracket, so that marks outside ASCII stay (`《기생충》` is not `기생충`);
and difflib ignores frequent characters of an answer of 200 or more, so that a long correct answer may get 0.
"""

from __future__ import annotations

import re
import string
import unicodedata
from difflib import SequenceMatcher

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example

OFFICIAL_MARKS = re.compile(r"['\"《》<>〈〉]\(\)‘’")
MARKS = re.compile(r"['\"《》<>〈〉()‘’]")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatch(MeanMetric, adds=("normalise", "score_pair")):
    """Match of the normalised output with one of the references; for a question without an answer both are empty."""

    name = "klue_exact_match"
    is_right_or_wrong = True

    def __init__(self, variant: str = "official") -> None:
        if variant not in ("official", "corrected"):
            raise BenchError(f"{self.name} has no variant {variant!r}.", "Write official or corrected.")
        self.variant = variant

    def normalise(self, text: str) -> str:
        """Return *text* after NFC and the normalisation of the comparison."""
        marks = MARKS if self.variant == "corrected" else OFFICIAL_MARKS
        return " ".join(marks.sub(" ", unicodedata.normalize("NFC", text).lower()).translate(PUNCTUATION).split())

    def score_example(self, example: Example) -> float:
        """Return the best score over the references, 0..1."""
        output = self.normalise(example.output)
        return max(self.score_pair(output, self.normalise(reference)) for reference in example.references)

    def score_pair(self, output: str, reference: str) -> float:
        """Return 1.0 if the two are equal."""
        return float(output == reference)

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|norm:klue-mrc-{self.variant}+nfc|refs:max|stderr:mean|v1"


class RougeW(ExactMatch):
    """F1 of the longest common substring, in characters; for an empty reference, 1 if the output is empty too."""

    name = "klue_rouge_w"
    is_right_or_wrong = False

    def score_pair(self, output: str, reference: str) -> float:
        """Return the F1 of one pair, 0..1."""
        if not reference or not output:
            return float(output == reference)
        matcher = SequenceMatcher(None, output, reference, autojunk=self.variant == "official")
        return 2.0 * matcher.find_longest_match().size / (len(output) + len(reference))
