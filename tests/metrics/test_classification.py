"""Macro-F1 against scikit-learn, and its standard error against resampled examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

Make = Callable[..., Example]
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def sklearn_f1(pairs: list[tuple[int, int]]) -> float:
    targets, outputs = zip(*pairs, strict=True)
    return 100.0 * float(f1_score(targets, outputs, average="macro", zero_division=0.0))


@settings(deadline=None, max_examples=60)
@given(pairs=PAIRS)
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]], chosen: Make) -> None:
    """On any targets and outputs the value is sklearn.metrics.f1_score(average="macro")."""
    examples = [chosen(target, output, 5) for target, output in pairs]
    assert load_metric("macro_f1").value(examples) == pytest.approx(sklearn_f1(pairs))


def test_a_label_that_is_nowhere_does_not_count(chosen: Make) -> None:
    """A choice that is neither a target nor an output is left out of the mean; one that is only output is a 0."""
    assert load_metric("macro_f1").value([chosen(0, 0, 7), chosen(1, 1, 7)]) == 100.0
    assert load_metric("macro_f1").value([chosen(0, 0, 7), chosen(1, 2, 7)]) == pytest.approx(100 / 3)


def test_rows_with_fewer_choices_mix(chosen: Make) -> None:
    """Rows with two and with four choices make one matrix over positions."""
    examples = [chosen(0, 0, 2), chosen(3, 3, 4), chosen(1, 3, 4)]
    assert load_metric("macro_f1").value(examples) == pytest.approx(sklearn_f1([(0, 0), (3, 3), (1, 3)]))


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_the_standard_error_is_that_of_resampled_examples(labels: int, chosen: Make) -> None:
    """The bootstrap over the confusion matrix agrees within 15 % with one that resamples the examples themselves."""
    rng = np.random.default_rng(labels)
    targets = rng.integers(0, labels, 200)
    outputs = np.where(rng.random(200) < 0.6, targets, rng.integers(0, labels, 200))
    examples = [chosen(int(t), int(o), labels) for t, o in zip(targets, outputs, strict=True)]
    naive = []
    for _ in range(600):
        drawn = rng.integers(0, 200, 200)
        naive.append(sklearn_f1(list(zip(targets[drawn], outputs[drawn], strict=True))))
    assert load_metric("macro_f1").stderr(examples) == pytest.approx(np.std(naive, ddof=1), rel=0.15)


def test_the_standard_error_is_the_same_every_time(chosen: Make) -> None:
    """The bootstrap is seeded: the same examples have the same standard error."""
    examples = [chosen(i % 3, i % 2, 3) for i in range(30)]
    assert load_metric("macro_f1").stderr(examples) == load_metric("macro_f1").stderr(examples)
