"""The order in which examples are seen: fixed by the seed alone, so that a resumed run and a twin see the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SORTED_WINDOW = 50
"""Batches within a window of this many are sorted by length, so that little padding is needed."""


def total_steps(examples: int, batch: int, accumulation: int, epochs: float, max_steps: int | None) -> int:
    """Return the number of optimizer steps."""
    steps = math.ceil(epochs * examples / (batch * accumulation))
    return min(steps, max_steps) if max_steps else steps


def batch_order(lengths: Sequence[int], batch: int, batches: int, seed: int) -> list[int]:
    """Return indices into the examples, *batches* x *batch* long: epoch after epoch, each shuffled anew.

    Within a window of `SORTED_WINDOW` batches, examples of like length share a batch; batches are then shuffled.
    """
    wanted, epoch = batches * batch, 0
    order: list[int] = []
    sizes = np.asarray(lengths)
    while len(order) < wanted:
        rng = np.random.default_rng([seed, epoch])
        shuffled = rng.permutation(len(sizes))
        groups: list[np.ndarray] = []
        for start in range(0, len(shuffled), batch * SORTED_WINDOW):
            window = shuffled[start : start + batch * SORTED_WINDOW]
            window = window[np.argsort(sizes[window], kind="stable")]
            groups += [window[i : i + batch] for i in range(0, len(window), batch)]
        # a short last group stays last: batch boundaries must not move
        whole = [g for g in groups if len(g) == batch]
        rest = [g for g in groups if len(g) < batch]
        for i in rng.permutation(len(whole)):
            order += whole[i].tolist()
        for group in rest:
            order += group.tolist()
        epoch += 1
    return order[:wanted]
