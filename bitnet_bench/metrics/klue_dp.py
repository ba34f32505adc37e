"""KLUE-DP (Park et al. 2021, section 3.6) over words; the label of a word is "HEAD RELATION".

UAS and LAS are macro-F1, as in the official script; the shares of correct words are available as accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.sums import BOOTSTRAP_SIGNATURE, SumMetric, count_label_hits, macro_f1_from_counts
from bitnet_bench.runs.records import Example

SCORED_RELATIONS = (
    *("NP", "NP_AJT", "VP", "NP_SBJ", "VP_MOD", "NP_OBJ", "AP", "NP_CNJ"),
    *("NP_MOD", "VNP", "DP", "VP_AJT", "VNP_MOD", "NP_CMP", "VP_SBJ"),
)
"""First 15 relations of the official list; all others are one class."""
OTHER_RELATION, WRONG_HEAD = "other", "wrong head"


class UAS(SumMetric, adds=("label_pairs",)):
    """Macro-F1 over head indices; a malformed answer counts as a head that no word has."""

    name = "uas"

    def label_pairs(self, example: Example) -> tuple[list[str], list[str]]:
        """Return the targets and the outputs, word by word, in the classes that are scored."""
        return _extract_heads(example.target_labels), _extract_heads(example.output_labels)

    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2, classes]: hits, and targets plus outputs."""
        pairs = [self.label_pairs(example) for example in examples]
        classes = sorted({label for pair in pairs for side in pair for label in side})
        return count_label_hits([target for target, _ in pairs], [output for _, output in pairs], classes)

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return macro-F1 over the classes that occur, 0..1."""
        return macro_f1_from_counts(sums)

    def score_example(self, example: Example) -> float:
        """Return the share of correct words."""
        targets, outputs = self.label_pairs(example)
        return sum(a == b for a, b in zip(targets, outputs, strict=True)) / len(targets)

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|average:macro-over-heads|{BOOTSTRAP_SIGNATURE}|v1"


class LAS(UAS):
    """Macro-F1 over relations; a word with a wrong head gets a class that is never a target (official)."""

    name = "las"

    def label_pairs(self, example: Example) -> tuple[list[str], list[str]]:
        """Return the relations; the output's are voided if the head is wrong."""
        targets, outputs = _extract_relations(example.target_labels), _extract_relations(example.output_labels)
        heads = zip(*super().label_pairs(example), strict=True)
        return targets, [given if a == b else WRONG_HEAD for given, (a, b) in zip(outputs, heads, strict=True)]

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|average:macro-over-relations|other:from-15|wrong-head:class|{BOOTSTRAP_SIGNATURE}|v1"


class UASAccuracy(UAS):
    """Share of words whose head is correct, over the words of all sentences."""

    name = "uas_accuracy"

    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2]: correct words and words."""
        pairs = [self.label_pairs(example) for example in examples]
        return np.array([(sum(map(str.__eq__, *pair)), len(pair[0])) for pair in pairs])

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the share, 0..1."""
        share: np.ndarray = sums[..., 0] / sums[..., 1]
        return share

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|over:words|{BOOTSTRAP_SIGNATURE}|v1"


class LASAccuracy(UASAccuracy):
    """Share of words whose head and relation are correct, relations not merged, over the words of all sentences."""

    name = "las_accuracy"

    def label_pairs(self, example: Example) -> tuple[list[str], list[str]]:
        """Return the whole labels of targets and outputs."""
        return list(example.target_labels), list(example.output_labels)


def _extract_heads(labels: Sequence[str]) -> list[str]:
    return [label.partition(" ")[0] for label in labels]


def _extract_relations(labels: Sequence[str]) -> list[str]:
    relations = [label.partition(" ")[2] for label in labels]
    return [relation if relation in SCORED_RELATIONS else OTHER_RELATION for relation in relations]
