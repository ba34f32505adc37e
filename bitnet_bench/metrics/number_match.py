"""Whether the number that was read out of a text is the right one."""

from __future__ import annotations

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.metrics.numbers import is_same_number, parse_number
from bitnet_bench.runs.records import Example


class NumberMatch(MeanMetric):
    """Share of examples whose extracted number equals the gold one; a text without a number is wrong."""

    is_right_or_wrong = True

    def score_example(self, example: Example) -> float:
        """Return 1.0 if the first output label is the number of the target."""
        label = example.output_labels[0] if example.output_labels else ""
        answer, gold = parse_number(label), parse_number(example.target)
        if answer is None or gold is None:
            return float(bool(label) and "".join(label.split()) == "".join(example.target.split()))
        return float(is_same_number(answer, gold, example.target))

    def signature(self) -> str:
        """Return the signature; its rules are those of `bitnet_bench.evaluation.number_extraction`."""
        return "number_match|number:extracted-rules1|compared:as-fractions|malformed:wrong|stderr:mean|v1"
