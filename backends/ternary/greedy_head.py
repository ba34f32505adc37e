"""Choose the token with the largest logit by an int8 copy of the head: the stored head's token, at half of its bytes.

docs/decisions/047-exact-head.md holds the proof.
"""

from __future__ import annotations

import math
import os

from torch import Tensor

from bitnet_bench.errors import BenchError
from bitnet_bench.ternary import kernel

GREEDY_VARIABLE = "BITNET_BENCH_GREEDY_HEAD"
"""Environment variable: `stored` computes all logits of every token, and takes no memory for a copy."""
LEAST_WEIGHTS = 2**22
"""Weights of a head from which a copy pays; smaller ones are read from the cache of the processor."""
TRIAL_TOKENS = 64
"""Tokens after which a head whose rows are too much alike for the bounds is computed whole."""
MOST_SHARE = 0.25
"""Share of the rows computed as they are stored up to which the copy pays."""
BOUND_BYTES = 12
"""Bytes of a row's scale and bounds."""


def is_wanted() -> bool:
    """Return whether the user lets greedy tokens be chosen by a copy of the head."""
    wanted = os.environ.get(GREEDY_VARIABLE, "bounded")
    if wanted not in ("bounded", "stored"):
        raise BenchError(f"{GREEDY_VARIABLE} is {wanted!r}.", "Set it to bounded or stored, or unset it.")
    return wanted == "bounded"


class GreedyHead:
    """Chooses the token that the stored head would choose. The copy is made when the first token is chosen."""

    def __init__(self, table: Tensor, least_weights: int = LEAST_WEIGHTS) -> None:
        """Use the contiguous *table* [vocabulary, hidden]; one of fewer than *least_weights* weights is not copied."""
        self._table = table
        self._copy: kernel.BoundedCopy | None = None
        self._chosen = self._computed = 0
        self._pays = (
            table.numel() >= least_weights
            and table.dtype in kernel.TABLES
            and table.shape[1] % 16 == 0
            and table.shape[1] <= kernel.MOST_COLUMNS
        )

    @property
    def pays(self) -> bool:
        """Return whether tokens are chosen by the copy; False from when bounds have turned out to be too wide."""
        return self._pays

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copy, whether it was made already or will be."""
        rows, columns = self._table.shape
        return rows * (columns + BOUND_BYTES) if self._pays else 0

    @property
    def share(self) -> float:
        """Share of the rows that was computed as they are stored so far."""
        return self._computed / (max(1, self._chosen) * len(self._table))

    def choose(self, x: Tensor) -> kernel.GreedyChoice | None:
        """Return what is known of the largest logits of normed hidden states [R, hidden]; None: compute all logits."""
        if not self._pays:
            return None
        if self._copy is None:
            copy = kernel.copy_head(self._table)
            if not math.isfinite(copy.largest_norm):
                self._pays = False
                return None
            self._copy = copy
        found = kernel.choose_rows(self._table, self._copy, x)
        if bool((found.ids < 0).any()):
            return None
        self._chosen += len(x)
        self._computed += int(found.counts.sum())
        if self._chosen >= TRIAL_TOKENS and self.share > MOST_SHARE:
            self._pays, self._copy = False, None
        return found
