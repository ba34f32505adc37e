"""The order of training examples: a matter of the seed, fair over epochs, grouped by length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.training.order import SORTED_WINDOW, count_steps, make_batch_order

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


def batches_of(order: list[int], batch: int) -> list[list[int]]:
    return [order[i : i + batch] for i in range(0, len(order), batch)]


def padding(order: list[int], lengths: list[int], batch: int) -> float:
    """Return the share of positions that would be padding."""
    groups = [[lengths[i] for i in group] for group in batches_of(order, batch)]
    return 1 - sum(map(sum, groups)) / sum(max(group) * len(group) for group in groups)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 60), st.integers(0, 3))
def test_the_order_is_as_long_as_asked(lengths: list[int], batch: int, batches: int, seed: int) -> None:
    """There are exactly batches x batch indices, each of an example that exists."""
    order = make_batch_order(lengths, batch, batches, seed)
    assert len(order) == batches * batch
    assert all(0 <= i < len(lengths) for i in order)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_sees_every_example_once(lengths: list[int], batch: int, seed: int) -> None:
    """Each stretch of as many indices as there are examples is a permutation of them."""
    n = len(lengths)
    order = make_batch_order(lengths, batch, -(-3 * n // batch), seed)
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3), st.integers(1, 20))
def test_a_longer_run_begins_like_a_shorter_one(lengths: list[int], batch: int, seed: int, batches: int) -> None:
    """How many steps are wanted does not change the order of those before."""
    longer = make_batch_order(lengths, batch, 2 * batches, seed)
    assert make_batch_order(lengths, batch, batches, seed) == longer[: batches * batch]


def test_the_seed_alone_decides() -> None:
    """The same seed gives the same order, another seed another, and two epochs differ."""
    lengths = list(range(1, 101))
    order = make_batch_order(lengths, 4, 50, seed=1)
    assert make_batch_order(lengths, 4, 50, seed=1) == order
    assert make_batch_order(lengths, 4, 50, seed=2) != order
    assert order[:100] != order[100:]


def test_examples_of_like_length_share_a_batch() -> None:
    """Within a window a batch holds neighbours in length, so that hardly anything is padded."""
    lengths = np.random.default_rng(0).permutation(np.arange(1, 401)).tolist()
    order = make_batch_order(lengths, 8, 50, seed=3)
    spans = [max(group) - min(group) for group in ([lengths[i] for i in b] for b in batches_of(order, 8))]
    assert len(lengths) == 8 * SORTED_WINDOW
    assert set(spans) == {7}
    assert padding(order, lengths, 8) < 0.03


def test_batches_do_not_come_in_order_of_length() -> None:
    """Batches are shuffled after sorting: the model does not see the short examples first."""
    lengths = list(range(1, 401))
    longest = [max(lengths[i] for i in b) for b in batches_of(make_batch_order(lengths, 8, 50, seed=3), 8)]
    assert longest != sorted(longest)
    assert abs(float(np.corrcoef(longest, range(50))[0, 1])) < 0.5


def test_later_epochs_are_grouped_by_length_as_well() -> None:
    """Where the batch size does not divide the examples, the second epoch pads no more than the first, within 2x."""
    lengths = np.random.default_rng(1).permutation(np.arange(1, 398)).tolist()  # 397 is prime
    order = make_batch_order(lengths, 8, 99, seed=0)
    first, second = padding(order[: 49 * 8], lengths, 8), padding(order[50 * 8 :], lengths, 8)
    assert first < 0.03
    assert second < 2 * first


@pytest.mark.parametrize(
    ("examples", "batch", "accumulation", "epochs", "max_steps", "steps"),
    [
        (100, 10, 1, 1.0, None, 10),
        (101, 10, 1, 1.0, None, 11),
        (101, 10, 1, 3.0, None, 31),
        (100, 10, 2, 3.0, None, 15),
        (100, 10, 1, 0.5, None, 5),
        (1, 16, 1, 3.0, None, 1),
        (100, 10, 1, 3.0, 7, 7),
        (100, 10, 1, 1.0, 99, 10),
    ],
)
def test_steps_are_counted(
    examples: int, batch: int, accumulation: int, epochs: float, max_steps: int | None, steps: int
) -> None:
    """A step is batch x accumulation examples; a begun step counts, and max_steps only shortens."""
    assert count_steps(examples, batch, accumulation, epochs, max_steps) == steps


def test_decimal_epochs_add_no_step() -> None:
    """1.1 epochs of 100 examples are 110 examples: the last bit of the float 1.1 does not make step 111."""
    assert count_steps(100, 1, 1, 1.1, None) == 110
