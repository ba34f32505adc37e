"""Order of the training examples, fixed by the seed alone, so that it is the same for a resumed run and a twin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitnet_bench.errors import BenchError

MAX_EXAMPLES = 100_000_000
"""Number of examples up to which the order of a run is planned, which takes memory for each."""
SORTED_WINDOW = 50
"""Batches of a window within which examples are sorted by length, so that little padding is needed."""


def count_steps(examples: int, batch: int, accumulation: int, epochs: float, max_steps: int | None) -> int:
    """Return the number of optimizer steps."""
    seen = round(epochs * examples, 6)  # 1.1 epochs of 100 examples are 110, not 110.00000000000001
    steps = math.ceil(seen / (batch * accumulation))
    steps = min(steps, max_steps) if max_steps else steps
    if steps * batch * accumulation > MAX_EXAMPLES:
        raise BenchError(
            f"The run would see {steps * batch * accumulation:.3g} examples, and at most {MAX_EXAMPLES:,} are planned.",
            "Give fewer `epochs`, a smaller `batch_size`, or `max_steps`.",
        )
    return steps


def make_batch_order(lengths: Sequence[int], batch: int, batches: int, seed: int) -> list[int]:
    """Return *batches* x *batch* indices of examples, epoch after epoch, each shuffled anew.

    Within a window of `SORTED_WINDOW` batches, examples of similar length share a batch; batches are then shuffled.
    A batch that an epoch leaves incomplete is filled with the first examples of the next.
    """
    wanted, epoch = batches * batch, 0
    order: list[int] = []
    sizes = np.asarray(lengths)
    while len(order) < wanted:
        rng = np.random.default_rng([seed, epoch])
        shuffled = rng.permutation(len(sizes))
        missing = -len(order) % batch
        order += shuffled[:missing].tolist()
        groups = _group_like_lengths(shuffled[missing:], sizes, batch)
        whole = [group for group in groups if len(group) == batch]
        for i in rng.permutation(len(whole)):
            order += whole[i].tolist()
        for group in groups:
            order += group.tolist() if len(group) < batch else []
        epoch += 1
    return order[:wanted]


def _group_like_lengths(shuffled: np.ndarray, sizes: np.ndarray, batch: int) -> list[np.ndarray]:
    """Cut *shuffled* into windows, sort each by length, and cut it into batches; the last batch may be short."""
    groups = []
    for start in range(0, len(shuffled), batch * SORTED_WINDOW):
        window = shuffled[start : start + batch * SORTED_WINDOW]
        window = window[np.argsort(sizes[window], kind="stable")]
        groups += [window[i : i + batch] for i in range(0, len(window), batch)]
    return groups
