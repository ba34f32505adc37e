"""KLUE-WoS (Park et al. 2021, section 3.8); a dialogue state is the set of its "domain-slot-value" strings."""

from __future__ import annotations

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.runs.records import Example


class JointGoalAccuracy(MeanMetric):
    """Share of turns whose state is correct in every slot."""

    is_right_or_wrong = True

    def score_example(self, example: Example) -> float:
        """Return 1.0 if both states are the same set."""
        return float(set(example.output_labels) == set(example.target_labels))

    def signature(self) -> str:
        """Return the signature."""
        return "joint_goal_accuracy|state:set|stderr:mean|v1"


class SlotF1(MeanMetric):
    """Mean of the F1 of each turn, which the official script calls slot micro-F1.

    Two empty states have F1 = 1; if only one is empty, F1 = 0.
    """

    def score_example(self, example: Example) -> float:
        """Return F1 over the slots of one turn."""
        gold, given = example.target_labels, example.output_labels
        if not gold and not given:
            return 1.0
        hits = sum(slot in given for slot in gold)
        wrong = sum(slot not in gold for slot in given)
        return 2.0 * hits / (hits + wrong + len(gold)) if hits else 0.0

    def signature(self) -> str:
        """Return the signature."""
        return "slot_f1|average:mean-over-turns|stderr:mean|v1"
