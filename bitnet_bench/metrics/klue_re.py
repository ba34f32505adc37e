"""KLUE-RE (Park et al. 2021, section 3.5): micro-F1 without no_relation, and the area under the precision-recall curve.

The choices are in the official order: choice 0 is no_relation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.metrics.classification import ConfusionMetric
from bitnet_bench.metrics.sums import f1_from_counts
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import SEED, bootstrap_counts

AREA_RESAMPLES = 100
"""Number of resamples for an area, which needs every example in order: its standard error is then good to 7 %."""


class MicroF1WithoutNoRelation(ConfusionMetric):
    """Micro-F1 over the labels from 1 on."""

    name = "re_micro_f1"

    def score_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """Return micro-F1, 0..1; 0 if no relation is a target or an output."""
        hits = np.diagonal(confusion, axis1=-2, axis2=-1)[..., 1:].sum(-1)
        involved = confusion[..., 1:, :].sum((-2, -1)) + confusion[..., :, 1:].sum((-2, -1))
        return f1_from_counts(hits, involved)


class AUPRC(Metric):
    """Mean over all labels, including no_relation, of the area under the label's precision-recall curve.

    The scores are the probabilities of the choices, softmax of their log-likelihoods. The area is the trapezoids of
    scikit-learn's `precision_recall_curve`, which give a label that is never a target the area 0.5.
    """

    def score_example(self, example: Example) -> float:
        """Return 1.0 if the most likely choice is the target."""
        return float(example.output_choice == example.target_choice)

    def value(self, examples: Sequence[Example]) -> float:
        """Return the mean area, 0..100."""
        return 100.0 * float(_example_areas(examples, np.ones((1, len(examples)))).mean())

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over examples; None for fewer than two."""
        if len(examples) < 2:
            return None
        drawn = [
            _example_areas(examples, weights).mean(0) for weights in bootstrap_counts(len(examples), AREA_RESAMPLES)
        ]
        return 100.0 * float(np.std(np.concatenate(drawn), ddof=1))

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the area of each label, 0..100."""
        areas = 100.0 * _example_areas(examples, np.ones((1, len(examples))))[:, 0]
        return dict(zip(examples[0].choices, areas.tolist(), strict=True))

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 1 + labels], the target and the log-likelihood of each choice."""
        return np.array([(e.target_choice, *e.loglikelihoods) for e in examples], dtype=float)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the mean area of each sample, 0..100."""
        areas: np.ndarray = 100.0 * _label_areas(numbers[:, 0].astype(int), numbers[:, 1:], weights).mean(0)
        return areas

    def signature(self) -> str:
        """Return the signature."""
        return f"re_auprc|score:softmax|average:macro-over-labels|stderr:bootstrap-{AREA_RESAMPLES}-seed{SEED}|v1"


def _example_areas(examples: Sequence[Example], weights: np.ndarray) -> np.ndarray:
    """Return [labels, R], the areas in samples that hold each example *weights* [R, n] times."""
    logits = np.array([example.loglikelihoods for example in examples])
    return _label_areas(np.array([example.target_choice for example in examples]), logits, weights)


def _label_areas(targets: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    return np.stack([_pr_curve_area(scores[:, label], targets == label, weights) for label in range(scores.shape[1])])


def _pr_curve_area(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [R], the area under the precision-recall curve of one label."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # a threshold is a run of equal scores
    found = np.flatnonzero(positive[order])
    # recall changes only at a threshold that finds a target: the points there and just before define the curve
    turns = np.searchsorted(last, found)
    kept = last[np.unique(np.concatenate([turns, np.maximum(turns - 1, 0), [len(last) - 1]]))]
    taken = np.cumsum(weights[:, order], axis=-1)[:, kept]
    found_upto = np.cumsum(np.pad(weights[:, order[found]], ((0, 0), (1, 0))), axis=-1)
    hits = found_upto[:, np.searchsorted(found, kept, side="right")]
    precision = np.divide(hits, taken, out=np.ones(hits.shape), where=taken > 0)  # nothing taken: start of the curve
    everything = hits[:, -1:]
    recall = np.where(taken > 0, np.divide(hits, everything, out=np.ones(hits.shape), where=everything > 0), 0.0)
    before = np.pad(precision[:, :-1], ((0, 0), (1, 0)), constant_values=1.0)
    area: np.ndarray = (np.diff(recall, axis=-1, prepend=0.0) * (precision + before) / 2).sum(-1)
    return area
