"""Accuracy, and accuracy per character."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

Make = Callable[..., Example]
NAMES = ["accuracy", "accuracy_norm", "macro_f1", "exact_match", "char_f1", "rouge_l", "bleu", "chrf"]


def test_accuracy_is_the_share_of_targets_chosen(chosen: Make) -> None:
    """Three of four right is 75, with the standard error of a mean of four."""
    examples = [chosen(0, 0), chosen(1, 1), chosen(1, 0), chosen(0, 0)]
    accuracy = load_metric("accuracy")
    assert [accuracy.score_example(example) for example in examples] == [1.0, 1.0, 0.0, 1.0]
    assert accuracy.value(examples) == 75.0
    # s / sqrt(n) of 1, 1, 0, 1: s**2 = 3 * 0.25**2 / 3 + 0.75**2 / 3 = 0.25
    assert accuracy.stderr(examples) == pytest.approx(100 * math.sqrt(0.25 / 4))


def test_one_example_has_no_standard_error(chosen: Make) -> None:
    """A single example gives no standard error, rather than 0."""
    for name in ("accuracy", "accuracy_norm", "macro_f1"):
        assert load_metric(name).stderr([chosen(0, 0)]) is None


def test_length_normalised_accuracy_divides_by_characters(chosen: Make) -> None:
    """-4 for one character loses to -6 for three: the likelier choice per character is the longer one."""
    example = chosen(1, 0, choices=("가", "가나다"), loglikelihoods=(-4.0, -6.0))
    assert load_metric("accuracy").score_example(example) == 0.0
    assert load_metric("accuracy_norm").score_example(example) == 1.0
    assert load_metric("accuracy_norm").value([example, example.model_copy(update={"target_choice": 0})]) == 50.0


def test_a_tie_goes_to_the_first_choice(chosen: Make) -> None:
    """Equally likely choices are counted as the first, so that a constant model scores chance and not 100."""
    tied = {"choices": ("가나", "다라"), "loglikelihoods": (-4.0, -4.0)}
    assert load_metric("accuracy_norm").score_example(chosen(0, 0, **tied)) == 1.0
    assert load_metric("accuracy_norm").score_example(chosen(1, 0, **tied)) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_has_its_own_signature(name: str) -> None:
    """A signature names its metric and version, and no two are alike."""
    signature = load_metric(name).signature()
    assert signature.endswith("|v1")
    assert sum(load_metric(other).signature() == signature for other in NAMES) == 1


def test_an_unknown_metric_lists_those_there_are() -> None:
    """A metric that does not exist is refused with the names of all that do."""
    with pytest.raises(BenchError, match="no metric 'f2'") as caught:
        load_metric("f2")
    assert all(name in caught.value.hint for name in NAMES)
