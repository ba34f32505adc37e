"""How far a runtime is from the checkpoint that it runs: distances worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.runtime_parity import MAX_ERROR_BY_PRECISION, MAX_RELATIVE_ERROR, compare_logits
from bitnet_bench.runs.records import RuntimeParity

OURS = torch.tensor([[0.0, math.log(3.0)]])
"""Logits of two tokens with the probabilities 1/4 and 3/4: log-probabilities that are ln 3 apart."""


def compare(theirs: Tensor, bound: float = 0.15) -> RuntimeParity:
    """Return how far *theirs* are."""
    return compare_logits(OURS, theirs, bound=bound, runtime="fake 1")


@pytest.mark.parametrize(
    ("theirs", "nats"),
    [
        ([0.0, math.log(3.0)], 0.0),
        ([5.0, 5.0 + math.log(3.0)], 0.0),  # what is added to all tokens changes no probability
        ([math.log(3.0), 0.0], math.log(3.0)),  # 3/4 and 1/4: either token is off by ln 3
        ([0.0, 0.0], (math.log(2.0) + math.log(1.5)) / 2),  # 1/2 and 1/2: by ln 2 and by ln 3/2
    ],
)
def test_the_distance_is_the_mean_of_the_log_probabilities_differences(theirs: list[float], nats: float) -> None:
    """In nats, and in standard deviations of the checkpoint's own: ln 3 over the root of 2."""
    found = compare(torch.tensor([theirs]))
    assert found.mean_error == pytest.approx(nats, abs=1e-6)
    assert found.relative_error == pytest.approx(nats / (math.log(3.0) / math.sqrt(2)), abs=1e-6)
    assert found.prompt_tokens == 1


def test_a_runtime_within_the_bound_computes_the_checkpoint_and_one_beyond_it_another_model() -> None:
    """ln 3 is 1.414 standard deviations."""
    swapped = torch.tensor([[math.log(3.0), 0.0]])
    assert compare(swapped, bound=1.415).fault is None
    fault = compare(swapped, bound=1.414).fault
    assert fault is not None
    assert "off by 1.1 nats in the mean" in fault


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (torch.zeros(1, 3), "has a vocabulary of 3 tokens where the checkpoint has 2"),
        (torch.zeros(2, 2), "gives no logits of the shape (1, 2)"),
        (torch.tensor([[0.0, math.nan]]), "gives no logits of the shape (1, 2)"),
        (torch.tensor([[0.0, math.inf]]), "gives no logits of the shape (1, 2)"),
    ],
)
def test_logits_of_another_shape_or_without_a_number_are_no_agreement(theirs: Tensor, said: str) -> None:
    """They have no distance, and a fault."""
    found = compare(theirs, bound=1e9)
    assert found.mean_error is None
    assert found.fault is not None
    assert said in found.fault


def test_the_bound_is_the_one_that_is_documented() -> None:
    """0.15 standard deviations; 0.5 for a file whose weights are rounded."""
    assert MAX_RELATIVE_ERROR == 0.15
    assert MAX_ERROR_BY_PRECISION == {"q4_0": 0.5}
